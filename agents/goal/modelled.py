"""A model's reading of a goal as an Objective, checked as strictly as the grammar checks itself."""

import math
import re
from collections.abc import Mapping
from typing import Any

from nightlab.agents.author.answer import number
from nightlab.agents.author.prompting import printable
from nightlab.agents.goal import words
from nightlab.agents.goal.constraint import consistent
from nightlab.agents.goal.lexeme import normal
from nightlab.agents.goal.metrics import Measured
from nightlab.agents.goal.quantity import pieces
from nightlab.agents.goal.reading import Reading, Understood
from nightlab.agents.goal.show import outline
from nightlab.errors import UsageError
from nightlab.vocabulary import Budget, Constraint, Direction, Objective

FARTHEST = 10.0
"""Times the baseline, or part of it: a relative bound beyond that is a slip."""
SAID = {"half": 50.0, "halve": 50.0, "halved": 50.0, "double": 2.0, "twice": 2.0, "third": 100 / 3}
SAID |= {"quarter": 25.0, "tenth": 10.0, **words.SPELLED}


def objective(answer: Mapping[str, Any], sentence: str, task: Measured, model: str) -> Objective:
    """What a model read, if the task has its metrics and the sentence its numbers.

    Raises:
        UsageError: a metric, direction, number or bound that cannot be meant, and why.
    """
    metric = named(text(answer, "metric") or task.primary, task, model)
    direction = task.better(metric)
    if text(answer, "direction").lower() not in ("", direction.value):
        wrong = text(answer, "direction")
        raise UsageError(f"{model} reads {wrong} {metric}, but {direction} is better")
    percent, value = (_given(answer, k, sentence) for k in ("target_percent", "target_value"))
    _check_target(metric, direction, percent, value)
    found = answer.get("constraints")
    rows = [row for row in (found if isinstance(found, list) else []) if isinstance(row, dict)]
    limits = [_limit(row, sentence, task, model) for row in rows]
    minutes, trials = (_given(answer, name, sentence) for name in ("minutes", "trials"))
    return Objective(
        metric=metric,
        direction=direction,
        target_percent=percent,
        target_value=value,
        constraints=consistent(limits, metric),
        budget=Budget(
            seconds=60 * minutes if minutes else None, trials=int(trials) if trials else None
        ),
    )


def reading(found: Objective, sentence: str) -> Reading:
    """An objective as if the grammar had read it."""
    meaning = "; ".join(" ".join(line.split()) for line in outline(found))
    said = (Understood(sentence, meaning),)
    return Reading(sentence=sentence, objective=found, understood=said, ignored=(), context=None)


def named(name: str, task: Measured, model: str) -> str:
    """The task's metric that a model means by a name or by the field's words for it.

    Raises:
        UsageError: the task does not measure it.
    """
    if name in task.metrics:
        return name
    found = [p for p in pieces(normal(name), task.metrics) if p.kind == "metric"]
    if len(found) == 1:
        return task.called(found[0])
    raise UsageError(
        f"{model} reads {name!r}, which this task does not measure; it measures {task.listed()}"
    )


def _check_target(
    metric: str, direction: Direction, percent: float | None, value: float | None
) -> None:
    if percent is not None and value is not None:
        raise UsageError(f"{metric} was read with two targets, {percent:g} % and {value:g}")
    least = min(n for n in (percent, value, 1.0) if n is not None)
    if least <= 0 or (direction is Direction.LOWER and (percent or 0) >= 100):
        wanted = f"{percent:g} %" if percent is not None else f"{value:g}"
        raise UsageError(f"{metric} was read with a target of {wanted}, which cannot be reached")


def _limit(row: Mapping[str, Any], sentence: str, task: Measured, model: str) -> Constraint:
    metric = named(text(row, "metric"), task, model)
    value, op = _given(row, "value", sentence), text(row, "op")
    relative = row.get("relative") is True
    if value is None or op not in ("<=", ">="):
        raise UsageError(f"{model} reads a constraint on {metric} without a bound")
    if relative and not 1 / FARTHEST <= value <= FARTHEST:
        raise UsageError(
            f"{model} reads {metric} {op} {value:g} x the baseline, which nothing can meet or miss"
        )
    return Constraint(metric, ">=" if op == ">=" else "<=", value, relative=relative)


def _given(row: Mapping[str, Any], name: str, sentence: str) -> float | None:
    """A field's number, which the sentence must give, in one of the ways to put it.

    Raises:
        UsageError: the sentence has no such number.
    """
    value = number(row.get(name))
    if value is None:
        return None
    said = [float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\.?\d*", sentence)]
    said += [n for word, n in SAID.items() if re.search(rf"\b{word}\b", sentence.lower())]
    if value == 1.0 or any(math.isclose(w, n, rel_tol=2e-3) for w in _ways(value) for n in said):
        return value
    raise UsageError(f"the goal was read with the number {value:g}, which it does not give")


def _ways(value: float) -> list[float]:
    """How a sentence may put a number: percent, factors, hours, thousands, seconds, gigabytes."""
    ways = [value, 100 * value, 100 * abs(1 - value), 1 + value / 100]
    ways += [value / 60, value / 1e3, value / 1e6, value / 1024]
    return [*ways, *([1 / (1 - value / 100)] if 0 < value < 100 else [])]


def text(answer: Mapping[str, Any], name: str) -> str:
    """A field that is text, on one line, capped."""
    value = answer.get(name)
    return printable(" ".join(value.split()))[:300] if isinstance(value, str) else ""


def texts(answer: Mapping[str, Any], name: str) -> list[str]:
    """A field that is a list of texts, or text with commas, or a list of objects with text."""
    value = answer.get(name)
    rows: list[object] = re.split(r"\n|;", value) if isinstance(value, str) else []
    rows = value if isinstance(value, list) else rows
    said = [next(iter(row.values()), "") if isinstance(row, dict) else row for row in rows]
    lines = [printable(" ".join(line.split()))[:200] for line in said if isinstance(line, str)]
    return [line for line in lines if line][:6]
