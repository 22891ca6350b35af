"""What the baseline and the winner cost: every metric that was measured beside the goal's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nightlab.memory.ledger import Ledger
from nightlab.memory.records import JSON, Arm, Trial
from nightlab.memory.report.summary import Summary
from nightlab.vocabulary import Integrity

KNOWN: Mapping[str, str] = {
    "params": "from the weights' header",
    "peak_memory_mb": "of training, seen from outside",
    "kv_bytes_per_token": "seen from outside",
    "prefill_ms": "host clock",
    "decode_ms": "host clock",
    "cpu_us_per_token": "of reading, seen from outside",
    "flops_per_token": "counted in the sandbox by torch: advisory, held against the CPU time",
    "train_tokens_per_s": "the trainer's count, advisory, over what the host saw",
}
"""Families of metrics and how each is known; the rest are the scorer's."""


@dataclass(frozen=True)
class Cost:
    """One metric's means on one rung."""

    metric: str
    baseline: float | None
    winner: float | None


@dataclass(frozen=True)
class Costs:
    """The costs of the baseline and, where there is one, the winner."""

    rung: str
    winner: str | None
    rows: tuple[Cost, ...]
    trials: tuple[str, ...]


def costs(ledger: Ledger, summary: Summary) -> Costs | None:
    """None before anything was measured on the campaign's rung."""
    campaign, rung = summary.campaign, summary.rung
    if rung is None:
        return None
    best = summary.best.experiment.id if summary.best else None
    winner = best if best != f"{campaign.id}-0" else None
    base = _usable(ledger, f"{campaign.id}-0", rung)
    mine = _usable(ledger, winner, rung) if winner else []
    measured = [trial.measurement.metrics for trial in (*base, *mine) if trial.measurement]
    names = sorted({name for metrics in measured for name in metrics})
    rows = tuple(
        Cost(name, _mean(base, name), _mean(mine, name))
        for name in names
        if name != campaign.objective.metric
    )
    ids = tuple(trial.id for trial in (*base, *mine))
    return Costs(rung, winner, rows, ids) if rows else None


def table(shown: Costs) -> str:
    """The costs as Markdown."""
    lines = [
        f"Means on the {shown.rung} rung, over {', '.join(shown.trials)}.",
        "",
        f"| metric | baseline | {shown.winner or 'winner'} | change | how it is known |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in shown.rows:
        change = "-"
        if row.baseline and row.winner is not None:
            change = f"{100 * (row.winner / row.baseline - 1):+.3g} %"
        cells = (_number(row.baseline), _number(row.winner), change)
        known = KNOWN.get(row.metric.partition("@")[0], "the scorer's")
        lines.append(f"| {row.metric} | {' | '.join(cells)} | {known} |")
    return "\n".join(lines)


def document(shown: Costs) -> dict[str, JSON]:
    """The costs, of JSON's own types."""
    return {
        "rung": shown.rung,
        "winner": shown.winner,
        "trials": list(shown.trials),
        "metrics": [vars(row) for row in shown.rows],
    }


def _usable(ledger: Ledger, experiment: str, rung: str) -> list[Trial]:
    return [
        trial
        for trial in ledger.trials(experiment=experiment, rung=rung)
        if trial.arm is Arm.CANDIDATE
        and trial.measurement is not None
        and trial.measurement.integrity is not Integrity.TAMPERED
    ]


def _mean(trials: Sequence[Trial], metric: str) -> float | None:
    values = [value for trial in trials if (value := trial.value(metric)) is not None]
    return fmean(values) if values else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.5g}" if abs(value) < 1e5 else f"{value:,.0f}"
