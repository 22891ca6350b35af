"""How much: factors of the baseline and absolute values, in the metric's direction and unit."""

from dataclasses import dataclass
from typing import Literal

from nightlab.agents.goal import words
from nightlab.agents.goal.lexeme import Lexeme
from nightlab.errors import UsageError
from nightlab.vocabulary import Direction

Way = Literal["up", "down", "faster", "slower"]

VALUES = ("number", "quantity", "duration", "percent", "share", "times", "fraction")


@dataclass(frozen=True)
class Level:
    """A value to reach or to keep to: absolute, or a factor of the baseline."""

    value: float
    relative: bool


def family(metric: str) -> str:
    """The metric without its context length."""
    return metric.partition("@")[0]


def way(than: str, metric: str, better: Direction) -> Way:
    """Where a word such as ``more``, ``worse`` or ``faster`` moves the metric.

    Raises UsageError for a speed word about a metric that is no speed.
    """
    up = better is Direction.HIGHER
    if than in {"more", "raise"}:
        return "up"
    if than in {"less", "lower"}:
        return "down"
    if than in {"better", "worse"}:
        return "up" if up == (than == "better") else "down"
    if not is_speed(metric):
        raise UsageError(f"{metric} is not a speed: say lower, higher, more or fewer")
    return "faster" if than == "faster" else "slower"


def is_speed(metric: str) -> bool:
    """Whether "faster" means something for it."""
    return family(metric).endswith(("_per_s", "_ms"))


def is_better(moves: Way, better: Direction) -> bool:
    """Whether moving that way improves a metric."""
    return moves == "faster" or moves == ("up" if better is Direction.HIGHER else "down")


def factor(moves: Way, much: Lexeme | None, metric: str) -> float:
    """What the baseline's value is multiplied by.

    A speed that rises by 30 % makes a time 1 / 1.3 of what it was.

    Raises UsageError for an amount that is nothing or takes away everything.
    """
    if much is None:
        return 1.0
    size = _times(much)
    grows = moves in {"up", "faster"}
    if much.kind == "times":
        multiple = size if grows else 1 / size
    else:
        multiple = 1 + size if grows else 1 - size
    if multiple <= 0:
        raise UsageError(f"{metric} cannot fall by {100 * size:g} %: ask for less than 100 %")
    inverse = moves in {"faster", "slower"} and family(metric).endswith("_ms")
    return 1 / multiple if inverse else multiple


def _times(much: Lexeme) -> float:
    if much.kind in {"number", "quantity"}:
        raise UsageError("a change is read in percent of the baseline, such as 'by 5 %' or 'by 2x'")
    size = much.number / 100 if much.kind == "percent" else much.number
    least = 1.0 if much.kind == "times" else 0.0
    if not least < size < 1e9:
        raise UsageError(f"a change of {_shown(much)} is none: ask for more than {_least(much)}")
    return size


def _shown(much: Lexeme) -> str:
    return f"{much.number:g} %" if much.kind == "percent" else f"{much.number:g}x"


def _least(much: Lexeme) -> str:
    return "1x" if much.kind == "times" else "0 %"


def level(much: Lexeme, metric: str) -> Level:
    """The value that is asked for, in the metric's unit, or as a factor of the baseline.

    Raises UsageError for a value the metric cannot have and for another metric's unit.
    """
    if much.kind in {"share", "times", "fraction"}:
        found = Level(much.number, relative=True)
    elif much.kind == "percent":
        found = Level(much.number / 100, relative=family(metric) not in words.FRACTIONS_OF_ONE)
    else:
        found = Level(_absolute(much, metric), relative=False)
    if found.value <= 0:
        raise UsageError(f"{metric} cannot be {found.value:g}: ask for a positive value")
    if family(metric) in words.FRACTIONS_OF_ONE and not found.relative and found.value > 1:
        raise UsageError(f"{metric} lies between 0 and 1 (or 0 % and 100 %), not {found.value:g}")
    return found


def _absolute(much: Lexeme, metric: str) -> float:
    if much.kind == "number":
        return much.number
    of = "seconds" if much.kind == "duration" else much.name
    unit, size = words.METRIC_UNITS.get(family(metric), ("", 1.0))
    if unit != of:
        raise UsageError(f"{metric} is not measured in {of}")
    return much.number / size


def percent(multiple: float, metric: str, better: Direction) -> float:
    """The improvement in percent that a factor of the baseline is.

    Raises UsageError for a factor that is no improvement.
    """
    gain = round(100 * better.sign * (multiple - 1), 9)
    if gain <= 0:
        raise UsageError(
            f"{multiple:g} x the baseline's {metric} is no improvement: {better} is better"
        )
    return gain
