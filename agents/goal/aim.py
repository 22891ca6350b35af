"""The aim of a goal: which metric, which way, and how far."""

from dataclasses import dataclass, replace

from nightlab.agents.goal.amount import (
    VALUES,
    Level,
    factor,
    is_better,
    is_speed,
    level,
    percent,
    way,
)
from nightlab.agents.goal.grammar import Clause
from nightlab.agents.goal.lexeme import Lexeme
from nightlab.agents.goal.metrics import Measured
from nightlab.errors import UsageError
from nightlab.vocabulary import Direction

VERBS = ("lower", "shrink", "raise", "improve", "speed", "halve", "double")
THAN = ("more", "less", "better", "worse", "faster", "slower", "raise", "lower")
DOWN = frozenset({"lower", "shrink", "halve"})
UP = frozenset({"raise", "double"})


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What the campaign is to improve."""

    metric: str
    direction: Direction
    target_percent: float | None = None
    target_value: float | None = None

    def __str__(self) -> str:
        verb = "lower" if self.direction is Direction.LOWER else "raise"
        if self.target_percent is not None:
            return f"{verb} {self.metric} by {self.target_percent:g} % of the baseline"
        if self.target_value is not None:
            op = "at most" if self.direction is Direction.LOWER else "at least"
            return f"{verb} {self.metric} to {op} {self.target_value:,.10g}"
        return f"{verb} {self.metric} as far as the budget allows"


def promoted(clause: Clause, *, asked: bool) -> bool:
    """Whether a bound may be the aim of a goal that has no other.

    A constraint word makes it a bound only, but for goals that ask for one ("find a model with
    fewer parameters").
    """
    plain = asked or not clause.has("with", "keep", "at")
    worse = clause.has("worse", "slower") or (clause.kind == "change" and clause.has("compare"))
    return clause.kind in {"bound", "change"} and plain and not worse


def aim(head: Clause, loose: Clause | None, task: Measured) -> Aim:
    """The aim that a clause, and an amount elsewhere in the sentence, ask for.

    Raises UsageError for a metric the task does not measure and a target in the wrong direction.
    """
    metric = _metric(head, task)
    found = Aim(metric=metric, direction=task.better(metric))
    if head.kind in {"aim change", "change"}:
        return _changed(found, head)
    verb = head.first(*VERBS)
    _check_verb(found, verb)
    amount = loose or head
    value = amount.first(*VALUES)
    if loose and head.first(*VALUES):
        raise UsageError(f"{metric} has two targets: keep one")
    if verb and verb.kind in {"halve", "double"}:
        if value:
            raise UsageError(f"{verb.name!r} says how far already: leave the other amount out")
        return _by(found, replace(verb, kind="times", number=2.0), verb)
    if value is None:
        return found
    if _is_level(head, amount, value):
        return _to(found, level(value, metric), amount.first("compare"))
    _check_at_least(amount)
    return _by(found, value, verb)


def _metric(head: Clause, task: Measured) -> str:
    if named := head.first("metric"):
        return task.called(named)
    than = head.first(*THAN)
    if head.has("faster", "speed"):
        return task.speed()
    if head.has("shrink") or (than and than.name == "smaller"):
        return task.named("params")
    if head.kind == "aim" or (than and than.kind == "better"):
        return task.primary
    raise UsageError(f"{than.name if than else 'that'} of what? This task measures {task.listed()}")


def _check_verb(found: Aim, verb: Lexeme | None) -> None:
    if verb is None:
        return
    lower = found.direction is Direction.LOWER
    if verb.kind in (UP if lower else DOWN):
        raise UsageError(
            f"{verb.name!r} is the wrong direction for {found.metric}: {found.direction} is better"
        )
    if verb.kind == "speed" and not is_speed(found.metric):
        raise UsageError(f"{found.metric} is not a speed: say lower or raise")


def _is_level(head: Clause, amount: Clause, value: Lexeme) -> bool:
    if head.kind == "bound" or value.kind in {"number", "quantity", "duration", "share"}:
        return not amount.has("by")
    return amount.has("to", "compare") and not amount.has("by")


def _check_at_least(amount: Clause) -> None:
    compare = amount.first("compare")
    if compare and compare.name == "<=":
        raise UsageError("an aim of at most so many percent is none: say 'at least'")


def _changed(found: Aim, head: Clause) -> Aim:
    than = head.first(*THAN)
    assert than is not None, "a change has a word that says which way"
    moves = way(than.kind, found.metric, found.direction)
    if not is_better(moves, found.direction):
        raise UsageError(
            f"{than.name!r} is the wrong direction for {found.metric}: {found.direction} is better"
        )
    _check_at_least(head)
    value = head.first(*VALUES)
    if value is None:
        return found
    return _percent(found, factor(moves, value, found.metric))


def _by(found: Aim, value: Lexeme, verb: Lexeme | None) -> Aim:
    moves = way(
        "faster" if verb and verb.kind == "speed" else "better", found.metric, found.direction
    )
    return _percent(found, factor(moves, value, found.metric))


def _percent(found: Aim, multiple: float) -> Aim:
    return replace(found, target_percent=percent(multiple, found.metric, found.direction))


def _to(found: Aim, wanted: Level, compare: Lexeme | None) -> Aim:
    wrong = ">=" if found.direction is Direction.LOWER else "<="
    if compare and compare.name == wrong:
        raise UsageError(
            f"a target {found.metric} {wrong} {wanted.value:g} is in the wrong direction: "
            f"{found.direction} is better"
        )
    if wanted.relative:
        return _percent(found, wanted.value)
    return replace(found, target_value=wanted.value)
