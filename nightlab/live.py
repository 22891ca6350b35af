"""What a person sees while a campaign runs: a view that redraws itself, or a line now and then.

It draws plain :class:`Snapshot` values on stderr and never touches stdout. Everything that foreign
code may have had a hand in (edits, log lines, progress) is cleaned and cut before it is shown.
"""

import math
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TextIO

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nightlab.vocabulary import Direction, Verdict

REDRAWS_PER_SECOND = 2.0
LINE_SECONDS = 15.0
"""Between two lines where nothing can be redrawn."""
WIDEST = 120
"""Columns; wider lines are harder to read."""
ACTIVITIES = 8
LOG_LINES = 5
LONGEST = 400
"""Characters of one text before it is cut to its place."""
BARS = "▁▂▃▄▅▆▇█"
ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)", re.DOTALL)
LABELS = 8
"""Columns of the labels at the left."""

ACCEPTED = (Verdict.CONFIRMED, Verdict.SCREENED)
REFUSED = (Verdict.DISCARDED, Verdict.INVALID, Verdict.REJECTED)


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What one experiment is doing now."""

    doing: str
    edits: str = ""
    progress: float | None = None
    """Self-reported fraction of the current training run; None where there is none."""
    seconds: float = 0.0
    """Since it began this."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A campaign at one moment."""

    goal: str
    task: str
    tier: str
    proposer: str
    stage: str
    """What the campaign as a whole is doing, such as "searching"."""
    metric: str
    direction: Direction
    campaign: str = ""
    baseline: float | None = None
    noise_sd: float | None = None
    """Spread of repeated baselines, in the metric's unit."""
    best: float | None = None
    best_experiment: str = ""
    best_verdict: Verdict | None = None
    """Whether the best is confirmed, or screened only."""
    gain_percent: float | None = None
    """How much better the best is than the baseline."""
    curve: tuple[float, ...] = ()
    """The best so far after each trial, oldest first."""
    trials: int = 0
    trials_total: int | None = None
    """The budget of trials, where there is one."""
    counts: Mapping[Verdict, int] = field(default_factory=dict)
    """Experiments that have ended, by verdict."""
    seconds: float = 0.0
    """Spent so far."""
    seconds_total: float | None = None
    """The budget of time, where there is one."""
    eta_seconds: float | None = None
    """Until the campaign is expected to end."""
    activities: Mapping[str, Activity] = field(default_factory=dict)
    """What is under way, by experiment."""
    log: tuple[str, ...] = ()
    """The latest lines, the newest last."""


@contextmanager
def watch(
    take_snapshot: Callable[[], Snapshot],
    *,
    headless: bool = False,
    every: float = LINE_SECONDS,
) -> Iterator[None]:
    """Show the campaign on stderr while the block runs.

    ``take_snapshot`` is called from a thread of its own, twice a second on a terminal; elsewhere,
    and when ``headless``, once in ``every`` seconds; and a last time when the block ends.
    """
    console = Console(stderr=True)
    if headless or not redraws(console, sys.stderr):
        with _lines(take_snapshot, sys.stderr, every):
            yield
        return
    draw = _View(take_snapshot, console).draw
    rate = REDRAWS_PER_SECOND
    with Live(console=console, refresh_per_second=rate, redirect_stdout=False, get_renderable=draw):
        yield


def redraws(console: Console, stream: TextIO) -> bool:
    """Whether lines on the stream can be drawn over: a terminal that knows how and is asked to."""
    able = stream.isatty() and not console.is_dumb_terminal and not console.no_color
    return able and console.encoding.startswith("utf")


class _View:
    """Draws the newest snapshot; where none can be taken, the one before with a remark."""

    def __init__(self, take_snapshot: Callable[[], Snapshot], console: Console) -> None:
        self._take = take_snapshot
        self._console = console
        self._last: Snapshot | None = None

    def draw(self) -> RenderableType:
        remark = Text(no_wrap=True, overflow="ellipsis", style="yellow")
        try:
            self._last = self._take()
        except Exception as fault:  # the view must never end the campaign
            remark.append(_stale(fault))
        if self._last is None:
            return remark
        view = screen(self._last, datetime.now(), self._console.width)
        return Group(view, remark) if remark else view


def _stale(fault: Exception) -> str:
    return clean(f"no fresh view: {type(fault).__name__}: {fault}")


@contextmanager
def _lines(take: Callable[[], Snapshot], stream: TextIO, every: float) -> Iterator[None]:
    over = threading.Event()

    def say() -> None:
        try:
            text = line(take())
        except Exception as fault:  # the view must never end the campaign
            text = _stale(fault)
        print(text, file=stream, flush=True)

    def repeat() -> None:
        while not over.wait(every):
            say()

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    say()
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        say()


def line(snapshot: Snapshot) -> str:
    """The campaign in one line of plain text."""
    parts = [f"{snapshot.stage}, {clock(snapshot.seconds)}", _standing(snapshot)]
    parts.append(f"{snapshot.trials} trial{'' if snapshot.trials == 1 else 's'}")
    parts += [f"{count} {word}" for word, count in _sums(snapshot.counts).items() if count]
    if snapshot.eta_seconds is not None:
        parts.append(f"{clock(snapshot.eta_seconds)} left")
    for experiment, activity in list(snapshot.activities.items())[:ACTIVITIES]:
        done = fraction(activity.progress)
        percent = "" if done is None else f" {100 * done:.0f} %"
        parts.append(f"{experiment} {activity.doing}{percent}")
    return clean("; ".join(part for part in parts if part))


def _standing(snapshot: Snapshot) -> str:
    if snapshot.baseline is None:
        return ""
    if snapshot.best is None:
        return f"{snapshot.metric} baseline {number(snapshot.baseline)}"
    gain = "" if snapshot.gain_percent is None else f", {snapshot.gain_percent:+.1f} %"
    verdict = f" ({snapshot.best_verdict})" if snapshot.best_verdict else ""
    best, baseline = number(snapshot.best), number(snapshot.baseline)
    return f"{snapshot.metric} {best} from {baseline}{gain}{verdict}"


def screen(snapshot: Snapshot, now: datetime, width: int) -> RenderableType:
    """The whole view, as wide as the terminal's ``width`` up to :data:`WIDEST` columns."""
    about = " · ".join((snapshot.task, snapshot.tier, snapshot.proposer))
    title = Text.assemble(("nightlab  ", "bold"), clean(f"{snapshot.campaign}  {about}"))
    parts: list[RenderableType] = [
        Text(clean(snapshot.goal), "bold", no_wrap=True, overflow="ellipsis"),
        Text(""),
        _facts(snapshot),
        _budget(snapshot, now),
    ]
    if snapshot.activities:
        parts += [Text(""), _under_way(snapshot.activities)]
    if snapshot.log:
        parts.append(Text(""))
    for said in snapshot.log[-LOG_LINES:]:
        parts.append(Text(clean(said), "dim", no_wrap=True, overflow="ellipsis"))
    return Panel(
        Group(*parts),
        title=title,
        title_align="left",
        subtitle=Text(clean(snapshot.stage), "cyan"),
        subtitle_align="left",
        border_style="dim",
        padding=(0, 1),
        width=min(WIDEST, width),
    )


def _facts(snapshot: Snapshot) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(style="dim", no_wrap=True, min_width=LABELS)
    grid.add_column(ratio=1)
    grid.add_row("best", _best(snapshot))
    grid.add_row("baseline", _baseline(snapshot))
    if len(snapshot.curve) > 1:
        grid.add_row("curve", Sparkline(snapshot.curve))
    grid.add_row("verdicts", _verdicts(snapshot.counts))
    return grid


def _best(snapshot: Snapshot) -> Text:
    if snapshot.best is None:
        return Text("nothing better yet", "dim")
    text = Text.assemble((number(snapshot.best), "bold green"), f" {clean(snapshot.metric)}")
    if snapshot.gain_percent is not None:
        word = "better" if snapshot.gain_percent >= 0 else "worse"
        text.append(f"   {abs(snapshot.gain_percent):.1f} % {word}", "green")
    if snapshot.best_experiment:
        verdict = f" {snapshot.best_verdict}" if snapshot.best_verdict else ""
        text.append(f"   {clean(snapshot.best_experiment)}{verdict}")
    return text


def _baseline(snapshot: Snapshot) -> Text:
    if snapshot.baseline is None:
        return Text("not measured yet", "dim")
    text = Text(number(snapshot.baseline))
    if snapshot.noise_sd is not None:
        text.append(f"   noise sd {number(snapshot.noise_sd)}", "dim")
    text.append(f"   {snapshot.direction} is better", "dim")
    return text


def _sums(counts: Mapping[Verdict, int]) -> dict[str, int]:
    return {
        "accepted": sum(counts.get(verdict, 0) for verdict in ACCEPTED),
        "refused": sum(counts.get(verdict, 0) for verdict in REFUSED),
        "failed": counts.get(Verdict.FAILED, 0),
    }


def _verdicts(counts: Mapping[Verdict, int]) -> RenderableType:
    styles = {"accepted": "green", "refused": "", "failed": "red"}
    details = {"accepted": ACCEPTED, "refused": REFUSED, "failed": ()}
    short, long = Text(), Text()
    for word, total in _sums(counts).items():
        some = [f"{counts[v]} {v}" for v in details[word] if counts.get(v)]
        for text in (short, long):
            text.append("   " if text else "")
            text.append(f"{total} {word}", styles[word] if total else "dim")
        long.append(f" ({', '.join(some)})" if some else "", "dim")
    return _Fitting(long, short)


@dataclass(frozen=True)
class _Fitting:
    """The long text where there is room for it, else the short one."""

    long: Text
    short: Text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.long if self.long.cell_len <= options.max_width else self.short


def _budget(snapshot: Snapshot, now: datetime) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(style="dim", no_wrap=True, min_width=LABELS)
    grid.add_column(ratio=1, min_width=4)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    trials = Text(f"{snapshot.trials:,}")
    if snapshot.trials_total:
        trials.append(f" of {snapshot.trials_total:,}")
    for label, spent, total, said in (
        ("trials", snapshot.trials, snapshot.trials_total, trials),
        ("time", snapshot.seconds, snapshot.seconds_total, _time(snapshot, now)),
    ):
        grid.add_row(label, *((_bar(spent, total), said) if total else (said, "")))
    return grid


def _bar(spent: float, total: float) -> ProgressBar:
    share = fraction(spent / total)
    return ProgressBar(total=1.0, completed=share or 0.0, complete_style="cyan")


def _time(snapshot: Snapshot, now: datetime) -> Text:
    said = clock(snapshot.seconds)
    if snapshot.seconds_total is not None:
        said += f" of {clock(snapshot.seconds_total)}"
    left = snapshot.eta_seconds
    if left is not None and 0 <= left < 1e8:
        said += f"   {clock(left)} left, ends {now + timedelta(seconds=left):%H:%M}"
    return Text(said)


def _under_way(activities: Mapping[str, Activity]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(style="bold", no_wrap=True, max_width=8, overflow="ellipsis")
    grid.add_column(no_wrap=True, max_width=24, overflow="ellipsis")
    grid.add_column(width=14)
    grid.add_column(no_wrap=True, justify="right", min_width=4)
    grid.add_column(no_wrap=True, justify="right", style="dim")
    grid.add_column(no_wrap=True, ratio=1, overflow="ellipsis", style="dim", min_width=10)
    for experiment, activity in list(activities.items())[:ACTIVITIES]:
        grid.add_row(Text(clean(experiment)), Text(clean(activity.doing)), *_progress(activity))
    if len(activities) <= ACTIVITIES:
        return grid
    return Group(grid, Text(f"and {len(activities) - ACTIVITIES} more", "dim"))


def _progress(activity: Activity) -> tuple[RenderableType, Text, Text, Text]:
    done = fraction(activity.progress)
    bar: RenderableType = Text("")
    if done is not None:
        bar = ProgressBar(total=1.0, completed=done, complete_style="magenta")
    percent = "" if done is None else f"{100 * done:.0f} %"
    return bar, Text(percent), Text(clock(activity.seconds)), Text(clean(activity.edits))


@dataclass(frozen=True)
class Sparkline:
    """Values as a row of bars, as many as fit; a higher value is a higher bar."""

    values: Sequence[float]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(sparkline(self.values, options.max_width), "green", no_wrap=True)


def sparkline(values: Sequence[float], width: int) -> str:
    """At most ``width`` bars; each shows the last of the values in its place."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    size = min(width, len(finite))
    shown = [finite[(place + 1) * len(finite) // size - 1] for place in range(size)]
    low, high = min(shown), max(shown)
    if not 0 < high - low < math.inf:
        return BARS[0] * size
    return "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1))] for value in shown)


def clean(text: str) -> str:
    """One line without control characters, escape sequences or text that turns direction."""
    plain = ESCAPE.sub("", text[: 4 * LONGEST])
    return "".join(c if c.isprintable() else " " for c in plain)[:LONGEST].strip()


def fraction(progress: float | None) -> float | None:
    """Self-reported progress within 0 and 1; None for what is no number."""
    if progress is None or math.isnan(progress):
        return None
    return min(1.0, max(0.0, progress))


def number(value: float) -> str:
    """Four decimals for small values, thousands in groups for large ones."""
    return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.0f}"


def clock(seconds: float) -> str:
    """``3:48``, or ``2:03:48`` from an hour on."""
    if not 0 <= seconds < 1e9:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
