"""What a campaign may spend: clauses of the sentence to a Budget."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from nightlab.agents.goal.grammar import Clause
from nightlab.agents.goal.lexeme import Lexeme
from nightlab.errors import UsageError
from nightlab.vocabulary import Budget

MORNING = 7 * 60
"""When "overnight" ends, in minutes after midnight."""

NAMES = {
    "duration": "time",
    "gpu": "GPU time",
    "trials": "trials",
    "usd": "money",
    "tokens": "tokens",
}


def budget(clauses: Sequence[Clause], now: datetime) -> Budget:
    """The bounds that the clauses set; a time of day counts in seconds from ``now``.

    Raises UsageError for one that is zero, negative, a lower bound or set twice.
    """
    found = Budget()
    seen: set[str] = set()
    for clause in clauses:
        amount = clause.first("duration", "trials", "usd", "tokens", "gpu")
        kind = amount.kind if amount else "duration"
        if kind in seen:
            raise UsageError(f"the goal sets two budgets of {NAMES[kind]}: keep one")
        seen.add(kind)
        found = _spend(found, amount, clause) if amount else _until(found, clause, now)
    return found


def _spend(found: Budget, amount: Lexeme, clause: Clause) -> Budget:
    compare = clause.first("compare")
    if compare and compare.name == ">=":
        raise UsageError(f"a budget of {NAMES[amount.kind]} is an upper bound: say 'at most'")
    if amount.number <= 0:
        raise UsageError(f"a budget of {NAMES[amount.kind]} must be more than 0")
    match amount.kind:
        case "duration":
            return replace(found, seconds=amount.number)
        case "gpu":
            return replace(found, gpu_seconds=amount.number)
        case "usd":
            return replace(found, usd=amount.number)
        case "trials":
            return replace(found, trials=_whole(amount))
        case _:
            return replace(found, tokens=_whole(amount))


def _whole(amount: Lexeme) -> int:
    if not amount.number.is_integer() or amount.number > 1e15:
        raise UsageError(f"{amount.number:g} {amount.kind} is not a whole number within reach")
    return int(amount.number)


def _until(found: Budget, clause: Clause, now: datetime) -> Budget:
    clock = clause.first("clock")
    tomorrow = clock is not None and clock.name == "tomorrow"
    return replace(found, seconds=seconds_until(now, _minutes(clause), tomorrow=tomorrow))


def _minutes(clause: Clause) -> int:
    clock = clause.first("clock")
    return int(clock.number) if clock else MORNING


def until(clause: Clause) -> str:
    """The time of day that a clause names, as ``07:00``."""
    hour, minute = divmod(_minutes(clause), 60)
    return f"{hour:02d}:{minute:02d}"


def seconds_until(now: datetime, minutes: int, *, tomorrow: bool = False) -> float:
    """Seconds from ``now`` to that time of day, ``minutes`` after midnight."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    hour, minute = divmod(minutes, 60)
    then = midnight.replace(hour=hour, minute=minute)
    if tomorrow or then <= now:
        then += timedelta(days=1)
    return then.timestamp() - now.timestamp()


def spent(budget: Budget) -> str:
    """The budget in words."""
    parts = []
    if budget.seconds is not None:
        parts.append(duration(budget.seconds))
    if budget.trials is not None:
        parts.append(f"{budget.trials:,} trials")
    if budget.usd is not None:
        parts.append(f"${budget.usd:,.2f}")
    if budget.tokens is not None:
        parts.append(f"{budget.tokens:,} tokens of the language model")
    if budget.gpu_seconds is not None:
        parts.append(f"{duration(budget.gpu_seconds)} of GPU time")
    return ", ".join(parts) or "no bound"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``45 s``, ``1 h 30 min``."""
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest if not hours else 0, "s"))
    return " ".join(f"{count:,} {unit}" for count, unit in parts if count)
