"""What must hold while the aim is pursued: clauses to Constraints."""

from collections.abc import Sequence
from typing import Literal

from nightlab.agents.goal.aim import THAN
from nightlab.agents.goal.amount import VALUES, factor, is_better, level, way
from nightlab.agents.goal.grammar import Clause
from nightlab.agents.goal.metrics import Measured
from nightlab.errors import UsageError
from nightlab.vocabulary import Constraint, Direction

Op = Literal["<=", ">="]


def constraints(clause: Clause, aimed: str, task: Measured) -> list[Constraint]:
    """The constraints of one clause; ``aimed`` is the metric of the goal's aim.

    Raises UsageError for a bound that cannot be meant.
    """
    return [_one(clause, metric, task) for metric in _metrics(clause, aimed, task)]


def _metrics(clause: Clause, aimed: str, task: Measured) -> list[str]:
    if named := clause.all("metric"):
        return [task.called(lexeme) for lexeme in named]
    than = clause.first(*THAN)
    if than and than.kind in {"faster", "slower"}:
        return [task.speed()]
    if than and than.name == "smaller":
        return [task.named("params")]
    if clause.kind in {"near", "no worse"} or (than and than.kind in {"worse", "better"}):
        if task.primary != aimed:
            return [task.primary]
        raise UsageError(f"a constraint on what? The aim is {aimed} itself; name another metric")
    raise UsageError(f"a constraint on what? This task measures {task.listed()}")


def _one(clause: Clause, metric: str, task: Measured) -> Constraint:
    better = task.better(metric)
    match clause.kind:
        case "no more":
            return Constraint(metric, "<=", 1.0, relative=True)
        case "no less":
            return Constraint(metric, ">=", 1.0, relative=True)
        case "near":
            return _near(clause, metric, better)
        case "change":
            return _change(clause, metric, better)
        case "bound":
            return _bound(clause, metric, better)
        case _:
            if clause.kind == "no slower":
                way("slower", metric, better)
            return Constraint(metric, _guard(better), 1.0, relative=True)


def _guard(better: Direction) -> Op:
    """The comparison that keeps a metric from getting worse."""
    return "<=" if better is Direction.LOWER else ">="


def _near(clause: Clause, metric: str, better: Direction) -> Constraint:
    much = clause.first("percent", "share")
    assert much is not None, "the rule asks for one"
    size = much.number / 100 if much.kind == "percent" else much.number
    if not 0 <= size < 1:
        raise UsageError(f"within {100 * size:g} % of {metric}: ask for 0 to 100 %")
    return Constraint(metric, _guard(better), round(1 - better.sign * size, 12), relative=True)


def _change(clause: Clause, metric: str, better: Direction) -> Constraint:
    than = clause.first(*THAN)
    assert than is not None, "a change has a word that says which way"
    moves = way(than.kind, metric, better)
    compare = clause.first("compare")
    gains = is_better(moves, better)
    if gains == (compare is not None and compare.name == "<=") and clause.first(*VALUES):
        bound = "at least" if gains else "at most"
        raise UsageError(f"{than.name} {metric}: {better} is better, so say {bound!r} how much")
    if not gains and not clause.first(*VALUES):
        raise UsageError(f"{than.name} {metric} is no constraint: {better} is better")
    value = factor(moves, clause.first(*VALUES), metric)
    return Constraint(metric, _guard(better), round(value, 12), relative=True)


def _bound(clause: Clause, metric: str, better: Direction) -> Constraint:
    compare = clause.first("compare")
    much = clause.first(*VALUES)
    assert much is not None, "the rule asks for one"
    wanted = level(much, metric)
    op: Op = _guard(better) if compare is None else "<=" if compare.name == "<=" else ">="
    return Constraint(metric, op, wanted.value, relative=wanted.relative)


def told(constraint: Constraint) -> str:
    """The constraint in words, numbers in full."""
    bound = "at most" if constraint.op == "<=" else "at least"
    if not constraint.relative:
        return f"{constraint.metric} {bound} {constraint.value:,.10g}"
    times = "" if constraint.value == 1 else f"{constraint.value:.6g} x "
    return f"{constraint.metric} {bound} {times}the baseline's"


def consistent(found: Sequence[Constraint], aimed: str) -> tuple[Constraint, ...]:
    """The constraints without repetition.

    Raises UsageError where two contradict each other or one is about the aim itself.
    """
    kept = tuple(dict.fromkeys(found))
    for constraint in kept:
        if constraint.metric == aimed:
            raise UsageError(
                f"{aimed} is both the aim and a constraint ({constraint}): keep one of them"
            )
        for other in kept:
            _check_pair(constraint, other)
    return kept


def _check_pair(one: Constraint, other: Constraint) -> None:
    if one is other or one.metric != other.metric or one.relative != other.relative:
        return
    if one.op == other.op:
        raise UsageError(f"two bounds of one kind, {one} and {other}: keep one")
    low, high = (one, other) if one.op == ">=" else (other, one)
    if low.value > high.value:
        raise UsageError(f"{low} and {high} cannot both hold")
