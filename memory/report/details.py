"""What a report adds to the summary: what was confirmed, what was tried, what failed, and why."""

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Dot, Experiment, Lesson, Repeat
from nightlab.memory.report import intervals
from nightlab.memory.report.diff import diff
from nightlab.memory.report.intervals import Interval
from nightlab.memory.report.spectra import Told, told
from nightlab.memory.report.summary import Summary, summarise
from nightlab.vocabulary import Verdict

EXAMPLES = 3
"""Ids that a row of failures names."""


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """One confirmed experiment with its evidence."""

    experiment: Experiment
    level: Interval | None
    """Mean on the confirmation's rung over trials not picked for their score."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One way of failing and who did."""

    kind: str
    count: int
    examples: tuple[str, ...]
    """Experiment ids."""
    reason: str
    """Of the first example."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """How often one part or operator was tried, and what came of it."""

    name: str
    experiments: int
    unfit: int
    """Invalid, failed or rejected."""
    screened: int
    """Passed the low rung: screened or confirmed."""
    confirmed: int
    best: Experiment | None
    """The one whose gain over the incumbent of its time has the largest lower bound."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One line of the family tree."""

    depth: int
    experiment: Experiment
    on_winning_line: bool


@dataclass(frozen=True, kw_only=True)
class Details:
    """Everything that a report shows."""

    summary: Summary
    improvements: tuple[Improvement, ...]
    failures: tuple[Failure, ...]
    parts: tuple[Tried, ...]
    operators: tuple[Tried, ...]
    tree: tuple[Branch, ...]
    """Experiments that passed the low rung, with their ancestors, each under its parent."""
    patch: str
    """Unified diff from the baseline to the best program; empty when there is no gain."""
    dots: tuple[Dot, ...]
    rungs: tuple[str, ...]
    """Cheapest first."""
    lessons: tuple[Lesson, ...]
    reproduce: tuple[str, ...]
    """Commands."""
    spectra: Told | None
    """Of the best program; None where none are stored."""


def detail(ledger: Ledger, campaign: str) -> Details:
    """Read all that a report shows."""
    summary = summarise(ledger, campaign)
    experiments = ledger.experiments(campaign)
    repeats = ledger.repeats(campaign)
    candidates = [e for e in experiments if e.number > 0 and e.verdict is not None]
    improvements = [
        Improvement(experiment=e, level=_level(repeats, e, e.estimate.rung or summary.rung))
        for e in candidates
        if e.verdict is Verdict.CONFIRMED
    ]
    endings = {fault.experiment: fault.ending.value for fault in ledger.faults(campaign)}
    return Details(
        summary=summary,
        improvements=tuple(improvements),
        failures=tuple(_failures(candidates, endings)),
        parts=tuple(_tried(candidates, lambda e: e.part)),
        operators=tuple(_tried(candidates, lambda e: e.operator)),
        tree=tuple(_tree(experiments, summary)),
        patch=patch(ledger, summary),
        dots=tuple(ledger.dots(campaign)),
        rungs=tuple(ledger.rungs(campaign)),
        lessons=tuple(ledger.lessons(campaign)),
        reproduce=tuple(reproduce(summary)),
        spectra=told(ledger, summary.best.experiment.id) if summary.best else None,
    )


def _level(repeats: list[Repeat], experiment: Experiment, rung: str | None) -> Interval | None:
    some = [r for r in repeats if r.program == experiment.program and r.rung == rung]
    return intervals.mean([r.value for r in some], [r.trial for r in some])


def patch(ledger: Ledger, summary: Summary) -> str:
    """The best program against the baseline."""
    start = ledger.baseline(summary.campaign.id)
    best = summary.best.experiment if summary.best else None
    if not (start and start.program and best and best.program) or best.number == 0:
        return ""
    before, after = ledger.program(start.program), ledger.program(best.program)
    return diff(before.program, after.program, start.id, best.id)


def reproduce(summary: Summary) -> list[str]:
    """Commands that show the winner and run the same campaign again."""
    campaign, budget = summary.campaign, summary.campaign.objective.budget
    again = ["nightlab", "run", campaign.goal, "--task", campaign.task]
    if data := campaign.settings.get("data"):
        again += ["--data", str(data)]
    if budget.trials is not None:
        again += ["--trials", str(budget.trials)]
    if budget.seconds is not None:
        again += ["--minutes", f"{budget.seconds / 60:g}"]
    again += ["--workers", str(campaign.workers), "--proposer", campaign.proposer]
    again += ["--sandbox", campaign.tier.split("+")[0], "--seed", str(campaign.seed)]
    commands = [shlex.join(again)]
    if summary.best and summary.best.experiment.number > 0:
        winner = summary.best.experiment.id
        commands = [
            f"nightlab show {winner} --files winner/",
            f"nightlab diff {winner} --baseline",
            *commands,
        ]
    return commands


def _failures(candidates: list[Experiment], endings: dict[str, str]) -> Iterable[Failure]:
    unfit = (Verdict.INVALID, Verdict.FAILED, Verdict.REJECTED)
    kinds: dict[str, list[Experiment]] = defaultdict(list)
    for experiment in candidates:
        if experiment.verdict in unfit:
            kinds[_kind(experiment, endings)].append(experiment)
    for kind, some in sorted(kinds.items(), key=lambda item: -len(item[1])):
        examples = tuple(experiment.id for experiment in some[:EXAMPLES])
        yield Failure(kind=kind, count=len(some), examples=examples, reason=some[0].reason)


def _kind(experiment: Experiment, endings: dict[str, str]) -> str:
    """The verdict, with how the run ended or else the first clause of the reason."""
    clause = experiment.reason.split(":")[0].split("(")[0].strip()
    return f"{experiment.verdict}: {endings.get(experiment.id) or clause or 'no reason given'}"


def _tried(candidates: list[Experiment], name: Callable[[Experiment], str]) -> list[Tried]:
    groups: dict[str, list[Experiment]] = defaultdict(list)
    for experiment in candidates:
        groups[name(experiment) or "(none)"].append(experiment)
    found = [_group(group, some) for group, some in groups.items()]
    return sorted(found, key=lambda t: (-t.confirmed, -t.screened, -t.experiments, t.name))


def _group(name: str, some: list[Experiment]) -> Tried:
    counts = Counter(experiment.verdict for experiment in some)
    gained = [e for e in some if e.estimate.gain_low is not None]
    return Tried(
        name=name,
        experiments=len(some),
        unfit=counts[Verdict.INVALID] + counts[Verdict.FAILED] + counts[Verdict.REJECTED],
        screened=counts[Verdict.SCREENED] + counts[Verdict.CONFIRMED],
        confirmed=counts[Verdict.CONFIRMED],
        best=max(gained, key=_lower_bound, default=None),
    )


def _lower_bound(experiment: Experiment) -> float:
    low = experiment.estimate.gain_low
    return -math.inf if low is None else low


def _tree(experiments: list[Experiment], summary: Summary) -> list[Branch]:
    by_id = {experiment.id: experiment for experiment in experiments}
    kept: set[str] = set()
    for experiment in experiments:
        if experiment.verdict in (Verdict.SCREENED, Verdict.CONFIRMED) or experiment.number == 0:
            kept |= {ancestor.id for ancestor in _line(experiment, by_id)}
    winner = summary.best.experiment if summary.best else None
    winning = {ancestor.id for ancestor in _line(winner, by_id)} if winner else set()
    children: dict[str | None, list[Experiment]] = defaultdict(list)
    for experiment in experiments:
        if experiment.id in kept:
            children[experiment.parent].append(experiment)
    branches: list[Branch] = []
    waiting = [(0, experiment) for experiment in reversed(children[None])]
    while waiting:
        depth, experiment = waiting.pop()
        on_line = experiment.id in winning
        branches.append(Branch(depth=depth, experiment=experiment, on_winning_line=on_line))
        waiting += [(depth + 1, child) for child in reversed(children[experiment.id])]
    return branches


def _line(experiment: Experiment, by_id: dict[str, Experiment]) -> Iterable[Experiment]:
    step: Experiment | None = experiment
    while step is not None:
        yield step
        step = by_id.get(step.parent) if step.parent else None
