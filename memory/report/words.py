"""Numbers, times and outcomes in words, the same in reports and on screens."""

from datetime import datetime
from math import isfinite

from nightlab.memory.records import Experiment
from nightlab.memory.report.intervals import Interval
from nightlab.memory.report.summary import Summary
from nightlab.vocabulary import Budget, Objective, Verdict


def number(value: float | None) -> str:
    """Four significant digits, more for large ones; a dash for nothing."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:#.4g}"


def signed(value: float | None) -> str:
    """A gain: with its sign."""
    return "-" if value is None else f"{value:+.4f}"


def ranged(value: float | None, low: float | None, high: float | None) -> str:
    """A gain with its interval, where that is finite."""
    if value is None:
        return "-"
    if low is None or high is None or not (isfinite(low) and isfinite(high)):
        return signed(value)
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def level(interval: Interval | None) -> str:
    """A level with its interval."""
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.4f}"
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def percent(interval: Interval | None) -> str:
    """A gain in percent with its interval."""
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.1f} %"
    return f"{interval.value:.1f} % [{interval.low:.1f}, {interval.high:.1f}]"


def time(moment: datetime) -> str:
    """To the second, in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def duration(seconds: float | None) -> str:
    """``42 s``, ``12 min 5 s``, ``7 h 30 min``."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def budget(bounds: Budget) -> str:
    """Every bound that is set."""
    parts = [
        f"{bounds.trials} trials" if bounds.trials is not None else "",
        duration(bounds.seconds) if bounds.seconds is not None else "",
        f"{bounds.usd:g} USD" if bounds.usd is not None else "",
        f"{bounds.tokens:,} tokens" if bounds.tokens is not None else "",
        f"{duration(bounds.gpu_seconds)} of GPU" if bounds.gpu_seconds is not None else "",
    ]
    return ", ".join(part for part in parts if part) or "none"


def target(objective: Objective) -> str:
    """When the goal counts as met."""
    if objective.target_percent is not None:
        return f"{objective.target_percent:g} % better than the baseline"
    if objective.target_value is not None:
        return f"{objective.metric} of {objective.target_value:g}"
    return "as good as the budget allows"


def reached(summary: Summary) -> str:
    """Whether the target was met; empty where there is none."""
    objective, best = summary.campaign.objective, summary.best
    if best is None or best.level is None or best.gain_percent is None:
        return ""
    if objective.target_percent is not None:
        met = best.gain_percent.value >= objective.target_percent
    elif objective.target_value is not None:
        sign = objective.direction.sign
        met = sign * best.level.value >= sign * objective.target_value
    else:
        return ""
    return f"The target ({target(objective)}) is {'met' if met else 'not met'}."


def counted(counts: dict[Verdict, int], under_way: int) -> str:
    """``12 experiments: 2 confirmed, 9 discarded, 1 failed``."""
    order = (
        Verdict.CONFIRMED,
        Verdict.SCREENED,
        Verdict.DISCARDED,
        Verdict.INVALID,
        Verdict.FAILED,
        Verdict.REJECTED,
    )
    parts = [f"{counts[verdict]} {verdict}" for verdict in order if counts[verdict]]
    parts += [f"{under_way} under way"] if under_way else []
    total = sum(counts.values()) + under_way
    noun = "experiment" if total == 1 else "experiments"
    return f"{total} {noun}" + (f": {', '.join(parts)}" if parts else "")


def usage(summary: Summary, bounds: Budget) -> list[tuple[str, str, str]]:
    """What was used beside what was allowed."""
    spent = summary.spent
    price = f"{spent.usd:.2f}"
    if spent.unpriced_calls:
        price += f" (and {spent.unpriced_calls} calls without a known price)"
    return [
        ("trials", str(spent.trials), _bound(bounds.trials)),
        (
            "wall time",
            duration(spent.wall_seconds),
            "-" if bounds.seconds is None else duration(bounds.seconds),
        ),
        ("CPU time of sandboxes", duration(spent.cpu_seconds), "-"),
        ("language model, USD", price, _bound(bounds.usd)),
        ("language model, tokens", f"{spent.tokens:,}", _bound(bounds.tokens)),
        ("overhead a trial, median", duration(summary.overhead_seconds), "-"),
    ]


def clean(text: object) -> str:
    """Foreign text without control characters, which a terminal would obey."""
    shown = (
        letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in str(text)
    )
    return "".join(shown)


def title(experiment: Experiment) -> str:
    """What an experiment tries, in a few words."""
    if experiment.number == 0:
        return "baseline"
    return ", ".join(experiment.edits) or experiment.operator or experiment.hypothesis or "-"


def _bound(value: float | None) -> str:
    return "-" if value is None else f"{value:,g}"
