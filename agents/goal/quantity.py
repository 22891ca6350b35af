"""Quantities of several lexemes: ``1 h 30 min``, ``$5``, ``95 % of the baseline``, ``at 4k``.

Each becomes one lexeme, so that the grammar sees ``duration``, ``usd``, ``share``, ``context``.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from nightlab.agents.goal import words
from nightlab.agents.goal.lexeme import Lexeme, lexemes
from nightlab.agents.goal.pattern import matched

Merge = Callable[[list[Lexeme]], Lexeme]


def pieces(sentence: str, metrics: Iterable[str]) -> list[Lexeme]:
    """The normalised sentence as the grammar reads it, in order."""
    found = [lexeme for lexeme in lexemes(sentence, metrics) if lexeme.kind != "stop"]
    for rules in (QUANTITIES, CONTEXTS):
        found = _merged(found, rules)
    return _placed([lexeme for lexeme in found if lexeme.kind != "baseline"])


def _merged(found: list[Lexeme], rules: tuple[tuple[str, Merge], ...]) -> list[Lexeme]:
    done: list[Lexeme] = []
    at = 0
    while at < len(found):
        for pattern, merge in rules:
            if size := matched(pattern, found, at):
                done.append(merge(found[at : at + size]))
                at += size
                break
        else:
            done.append(found[at])
            at += 1
    return done


def _to(kind: str, scale: float = 1.0) -> Merge:
    def merge(parts: list[Lexeme]) -> Lexeme:
        value = next(part.number for part in parts if part.kind == "number") * scale
        start, end = parts[0].start, parts[-1].end
        return Lexeme(
            kind=kind if math.isfinite(value) else "unread", start=start, end=end, number=value
        )

    return merge


def _duration(parts: list[Lexeme]) -> Lexeme:
    numbers = [part.number for part in parts if part.kind == "number"]
    units = [part.number for part in parts if part.kind == "second"]
    seconds = sum(n * unit for n, unit in zip(numbers, units, strict=True))
    kind = "duration" if math.isfinite(seconds) else "unread"
    if any(part.kind == "gpuword" for part in parts) and kind == "duration":
        kind = "gpu"
    return Lexeme(kind=kind, start=parts[0].start, end=parts[-1].end, number=seconds)


def _with_unit(parts: list[Lexeme]) -> Lexeme:
    merged = _to("quantity", parts[1].number)(parts)
    return replace(merged, name=parts[1].name)


def _context(parts: list[Lexeme]) -> Lexeme:
    """``4k`` is 4096 here; a length that is no whole positive number is left unread."""
    merged = _to("context")(parts)
    scale = next(part.name for part in parts if part.kind == "number")
    length = merged.number / 1000 * 1024 if scale == "k" else merged.number
    if not (0 < length < 1e12 and length.is_integer()):
        return replace(merged, kind="unread")
    return replace(merged, context=int(length))


def _metric_at(parts: list[Lexeme]) -> Lexeme:
    at = _context([part for part in parts if part.kind == "number"])
    kind = "metric" if at.context else "unread"
    return replace(parts[0], kind=kind, end=parts[-1].end, context=at.context)


QUANTITIES: tuple[tuple[str, Merge], ...] = (
    ("number percentsign baseline (?!metric)", lambda parts: _to("share", 0.01)(parts)),
    ("number percentsign", _to("percent")),
    ("number gpuword second", _duration),
    ("number second (number second)*", _duration),
    ("dollar number | number dollar", _to("usd")),
    ("factor number | number x", _to("times")),
    ("number trialword", _to("trials")),
    ("(at | with | in)? context number tokenword?", _context),
    ("(at | with | in)? number context", _context),
    ("number tokenword", _to("tokens")),
    ("number unit", _with_unit),
)

CONTEXTS: tuple[tuple[str, Merge], ...] = (("metric at number", _metric_at),)


def _placed(found: list[Lexeme]) -> list[Lexeme]:
    """Gives each context to a metric: the nearest before it, else the first after it.

    A context that stands apart from its metric stays in its place, to be shown.
    """
    for context in [lexeme for lexeme in found if lexeme.kind == "context"]:
        here = found.index(context)
        before = [i for i in range(here) if _open(found[i])]
        after = [i for i in range(here, len(found)) if _open(found[i])]
        timed = [i for i in before if found[i].name.partition("@")[0] in words.AT_CONTEXT]
        best = (timed or before)[-1:] or after[:1]
        if not best:
            found[here] = replace(context, kind="unread")
            continue
        metric = found[best[0]]
        beside = best[0] == here - 1
        end = context.end if beside else metric.end
        found[best[0]] = replace(metric, context=context.context, end=end)
        found[here] = replace(context, kind="beside" if beside else "apart")
    return [lexeme for lexeme in found if lexeme.kind != "beside"]


def _open(lexeme: Lexeme) -> bool:
    return lexeme.kind == "metric" and lexeme.context is None and "@" not in lexeme.name
