"""Made-up spectra of the made-up campaign: no number here was measured."""

from nightlab.memory.records import JSON, Spectrum, Trial

STEPS = (10, 50, 100, 150, 200, 240)
LAYERS = 3
N, D = 256, 256
THIRDS = ("early", "mid", "late")


def rows(trial: Trial, against: str, gain: float) -> list[Spectrum]:
    """One row for each layer and step of a trial, and its compact table beside an incumbent."""
    found = [
        Spectrum(trial=trial.id, layer=str(layer), step=step, values=_layer(layer, step, gain))
        for layer in range(LAYERS)
        for step in STEPS
    ]
    table: dict[str, JSON] = {
        "against": against,
        "rung": trial.rung,
        "trials": [trial.id],
        "incumbent_runs": 4,
        "borrowed_deviation": False,
        "comparable": True,
        "n": N,
        "widths": [D] * LAYERS,
        "loss": 2.4,
        "thirds": {third: _cells(at, gain) for at, third in enumerate(THIRDS)},
        "patterns": [],
        "doubts": [],
    }
    return [*found, Spectrum(trial=trial.id, layer="thirds", step=STEPS[-2], values=table)]


def _layer(layer: int, step: int, gain: float) -> dict[str, JSON]:
    before = 12.0 + 3 * layer + step / 40
    after = before * (1.2 + 0.1 * layer + gain)
    shared: dict[str, JSON] = {"n": N, "d": D}
    pre: dict[str, JSON] = {**shared, "pr_corrected": before, "eee": 0.86}
    post: dict[str, JSON] = {**shared, "pr_corrected": after, "pr_gain_corrected": after / before}
    post |= {"eee": 0.84 - 0.02 * layer - step / 4000, "js": 0.01 + 0.01 * layer}
    return {"pre": pre, "post": post, "source": "oracle" if step == STEPS[-1] else "trainer"}


def _cells(at: int, gain: float) -> dict[str, JSON]:
    values = {
        "pr_pre": 0.05 + 0.01 * at,
        "pr_post": 0.07 + 0.02 * at,
        "log_gain": 0.3 + 0.05 * at + gain,
        "eee_post": 0.83 - 0.02 * at,
        "js": 0.01 + 0.01 * at,
    }
    return {
        name: {"value": value, "change": 0.001, "z": round(8 * gain * (1 - at), 2)}
        for name, value in values.items()
    }
