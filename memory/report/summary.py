"""A campaign in one document: where it started, where it stands, what it used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from nightlab.memory.ledger import Ledger
from nightlab.memory.records import JSON, Campaign, Repeat, Spent
from nightlab.memory.report import aborts, intervals
from nightlab.memory.report.aborts import Aborts
from nightlab.memory.report.intervals import Interval
from nightlab.memory.report.standing import Best, stand
from nightlab.vocabulary import Verdict

Measure = Callable[[Sequence[float], Sequence[str]], Interval | None]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a screen or a document shows first."""

    campaign: Campaign
    spent: Spent
    counts: dict[Verdict, int]
    under_way: int
    rung: str | None
    """The rung on which ``baseline`` and ``best`` are compared."""
    baseline: Interval | None
    noise: dict[str, Interval]
    """Rung to the standard deviation of the baseline from seed to seed."""
    best: Best | None
    """None until the campaign has an incumbent."""
    overhead_seconds: float | None
    """Median over trials of what is not training or scoring."""
    holdout_looks: int
    aborts: Aborts
    images: tuple[str, ...]
    """Ids of the sandbox images that runs were made in."""
    report: Path | None


def summarise(ledger: Ledger, campaign: str, reports: Path | None = None) -> Summary:
    """Read a summary; ``reports`` is where reports are looked for."""
    found = ledger.campaign(campaign)
    noise = ledger.noise_values(campaign)
    rung = _rung(ledger, found)
    page = reports / campaign / "report.md" if reports else None
    overheads = ledger.overheads(campaign)
    return Summary(
        campaign=found,
        spent=ledger.spent(campaign),
        counts=ledger.counts(campaign),
        under_way=len(ledger.experiments(campaign, under_way=True)),
        rung=rung,
        baseline=_on(noise, rung, intervals.mean),
        noise=_spreads(noise),
        best=stand(ledger, found, rung),
        overhead_seconds=median(overheads) if overheads else None,
        holdout_looks=ledger.holdout_looks(campaign),
        aborts=aborts.aborts(ledger, found),
        images=tuple(ledger.images(campaign)),
        report=page if page and page.exists() else None,
    )


def document(summary: Summary) -> dict[str, JSON]:
    """The summary as ``nightlab run --json`` and ``nightlab show CAMPAIGN --json`` print it."""
    campaign, spent, best = summary.campaign, summary.spent, summary.best
    goal = campaign.objective
    noise = summary.noise.get(summary.rung or "")
    return {
        "campaign": campaign.id,
        "goal": campaign.goal,
        "status": campaign.status,
        "reason": campaign.reason,
        "task": campaign.task,
        "tier": campaign.tier,
        "images": list(summary.images),
        "proposer": campaign.proposer,
        "seed": campaign.seed,
        "workers": campaign.workers,
        "objective": {
            "metric": goal.metric,
            "direction": goal.direction,
            "constraints": [str(constraint) for constraint in goal.constraints],
            "target_percent": goal.target_percent,
            "target_value": goal.target_value,
            "budget": vars(goal.budget),
        },
        "settings": campaign.settings,
        "rung": summary.rung,
        "baseline": interval_document(summary.baseline),
        "noise_floor": noise.value if noise else None,
        "noise": {rung: interval_document(spread) for rung, spread in summary.noise.items()},
        "best": _best_document(best) if best else None,
        "counts": {str(verdict): count for verdict, count in summary.counts.items()},
        "under_way": summary.under_way,
        "trials": spent.trials,
        "holdout_looks": summary.holdout_looks,
        "aborts": aborts.document(summary.aborts),
        "wall_seconds": spent.wall_seconds,
        "spent": vars(spent),
        "overhead_seconds_median": summary.overhead_seconds,
        "report": str(summary.report) if summary.report else None,
    }


def interval_document(interval: Interval | None) -> dict[str, JSON]:
    """``value``, ``interval`` and the ids of the trials behind them."""
    if interval is None:
        return {"value": None, "interval": None, "trials": []}
    return {
        "value": interval.value,
        "interval": interval.range,
        "trials": list(interval.trials),
    }


def _best_document(best: Best) -> dict[str, JSON]:
    gain, held = best.gain_percent, best.holdout_gain_percent
    return {
        "experiment": best.experiment.id,
        "program": best.experiment.program,
        **interval_document(best.level),
        "holdout": best.holdout.value if best.holdout else best.experiment.estimate.holdout,
        "gain_percent": gain.value if gain else None,
        "gain_percent_interval": gain.range if gain else None,
        "holdout_gain_percent": held.value if held else None,
        "holdout_gain_percent_interval": held.range if held else None,
        "pairs": best.pairs,
        "edits": list(best.edits),
        "hypothesis": best.experiment.hypothesis,
        "verdict": best.experiment.verdict,
    }


def _rung(ledger: Ledger, campaign: Campaign) -> str | None:
    """The rung of the incumbent's confirmation; before there is one, the dearest that was run."""
    incumbent = ledger.experiment(campaign.incumbent) if campaign.incumbent else None
    if incumbent and incumbent.estimate.rung:
        return incumbent.estimate.rung
    rungs = ledger.rungs(campaign.id)
    return rungs[-1] if rungs else None


def _on(noise: list[Repeat], rung: str | None, interval: Measure) -> Interval | None:
    some = [repeat for repeat in noise if repeat.rung == rung]
    return interval([repeat.value for repeat in some], [repeat.trial for repeat in some])


def _spreads(noise: list[Repeat]) -> dict[str, Interval]:
    rungs = dict.fromkeys(repeat.rung for repeat in noise)
    spreads = {rung: _on(noise, rung, intervals.spread) for rung in rungs}
    return {rung: spread for rung, spread in spreads.items() if spread}
