"""Diagnose: store the spectra of an experiment that passed, layer by layer beside its incumbent's.

Advisory: nothing here changes a verdict, and whatever it writes is keyed, so doing it twice
changes nothing.
"""

from collections.abc import Mapping, Sequence

from nightlab.agents import spectra
from nightlab.agents.lab import Lab
from nightlab.evals.nerve.readings import Reading
from nightlab.evals.nerve.table import patterns
from nightlab.memory.records import JSON, Spectrum, Trial
from nightlab.memory.report.spectra import TABLE
from nightlab.vocabulary import Integrity, Verdict

PASSED = (Verdict.SCREENED, Verdict.CONFIRMED)
MOST_TRIALS = 3
"""Trials of one side whose spectra are stored."""
MOST_ROWS = 72
"""Rows (layers times steps) that one trial may take in the ledger."""
KEPT = ("n", "d", "entropy", "pr", "pr_corrected", "eee", "js", "pr_gain_corrected", "flag")


def diagnose(lab: Lab, experiment: str, against: str, verdict: Verdict, rung: str) -> None:
    """Store an experiment's spectra and its incumbent's on a rung, and the compact table."""
    if verdict not in PASSED:
        return
    rows: list[Spectrum] = []
    for name in (experiment, against):
        for trial in spectra.trials_of(lab, name, rung)[:MOST_TRIALS]:
            rows += trial_rows(lab, trial)
    if found := spectra.compare(lab, experiment, against, rung):
        rows.append(_table(found))
    lab.ledger.record_spectra(rows)


def trial_rows(lab: Lab, trial: Trial) -> list[Spectrum]:
    """One row for each layer and step of a trial; the last step's are the oracle's if it spoke."""
    seen = spectra.read(lab.ledger.artifacts, trial)
    if seen is None or not seen.reports:
        return []
    probes = spectra.recomputed(lab.ledger.artifacts, trial)
    last = seen.reports[-1].step
    by_step = {report.step: report.readings for report in seen.reports}
    layers = max(1, *(len(_layers(readings)) for readings in by_step.values()))
    rows = []
    for step in thinned(sorted(by_step), max(1, MOST_ROWS // layers)):
        oracle = step == last and bool(probes)
        for layer, places in _layers(probes[0] if oracle else by_step[step]).items():
            values: dict[str, JSON] = {**places, "source": "oracle" if oracle else "trainer"}
            rows.append(Spectrum(trial=trial.id, layer=layer, step=step, values=values))
    return rows


def thinned(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of the steps, evenly, the last among them."""
    if len(steps) <= most:
        return list(steps)
    if most == 1:
        return [steps[-1]]
    return [steps[round(at * (len(steps) - 1) / (most - 1))] for at in range(most)]


def _layers(readings: Sequence[Reading]) -> Mapping[str, dict[str, JSON]]:
    """Layer (``3``, ``3.1`` for an expert, ``3:path`` for a second one) to its places' numbers."""
    found: dict[str, dict[str, JSON]] = {}
    names: dict[tuple[int, int | None, str], str] = {}
    for reading in readings:
        at = (reading.layer, reading.expert, reading.path)
        if at not in names:
            name = str(reading.layer) + ("" if reading.expert is None else f".{reading.expert}")
            names[at] = f"{name}:{reading.path}" if name in names.values() else name
        numbers = {name: getattr(reading, name) for name in KEPT}
        found.setdefault(names[at], {})[reading.place] = {
            name: float(f"{value:.4g}") if isinstance(value, float) else value
            for name, value in numbers.items()
            if value is not None
        }
    return found


def _table(found: spectra.Comparison) -> Spectrum:
    """The compact table as a row of the experiment's first trial."""
    doubts = [
        reason
        for trial in found.trials
        if trial.measurement and trial.measurement.integrity is Integrity.SUSPECT
        for reason in trial.measurement.reasons
    ]
    beside = found.reference
    values: dict[str, JSON] = {
        "against": found.against,
        "rung": found.rung,
        "trials": [trial.id for trial in found.trials],
        "incumbent_runs": beside.runs if beside else 0,
        "borrowed_deviation": found.borrowed,
        "comparable": beside is not None and beside.size == found.now.size,
        "n": found.now.tokens,
        "widths": list(found.now.widths),
        "loss": found.loss,
        "thirds": spectra.cells(found),
        "patterns": list(patterns(found.now, found.before)),
        "doubts": list(dict.fromkeys(doubts)),
    }
    trial, step = found.trials[0].id, found.now.step
    return Spectrum(trial=trial, layer=TABLE, step=step, values=values)
