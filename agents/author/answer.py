"""JSON in what a model answers: fenced, commented, with Python's words, or with text around it."""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from nightlab.agents.catalogue import syntax

LONGEST = 40_000
"""Characters of a reply that are looked at."""
TRIES = 40
"""Objects that are tried."""


def json_object(text: str) -> Mapping[str, Any] | None:
    """The first JSON object of a reply, read tolerantly; None where there is none.

    What stands inside an object that cannot be read, or that is cut off, is no object.
    """
    text, at = text[:LONGEST], 0
    for _ in range(TRIES):
        at = text.find("{", at)
        if at < 0:
            return None
        end = _closed(text, at)
        found = _strict(text, at) or (_loose(text[at:end]) if end else None)
        if isinstance(found, dict) and found:
            return found
        if end is None:
            return None
        at = end
    return None


def _closed(text: str, start: int) -> int | None:
    """Where the brace that opens at ``start`` is closed, strings not minded; None if nowhere."""
    depth = 0
    for match in re.finditer(r"[{}]", text[start:]):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return start + match.end()
    return None


def _strict(text: str, at: int) -> object:
    try:
        return json.JSONDecoder().raw_decode(text, at)[0]
    except (ValueError, RecursionError):
        return None


def _loose(text: str) -> object:
    """JSON as models spoil it: comments, commas too many, single quotes, True and None."""
    plain = re.sub(r"(?m)(?<![:\"'\w])(//|#).*$", "", text)
    plain = re.sub(r",(\s*[}\]])", r"\1", plain)
    try:
        return json.loads(plain)
    except (ValueError, RecursionError):
        pass
    words = {"true": "True", "false": "False", "null": "None"}
    pythonic = re.sub(r"(?<=[:\s\[,])(true|false|null)\b", lambda m: words[m.group(1)], plain)
    try:
        (only,) = syntax.read(pythonic).body
        return ast.literal_eval(only.value) if isinstance(only, ast.Expr) else None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def number(value: object) -> float | None:
    """A number, also one in words such as ``"5 %"`` or ``"1,000"``; None for anything else."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(-?\d[\d,]*(?:\.\d+)?)\s*(?:%|percent|x)?\s*", value)
        return float(match.group(1).replace(",", "")) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)
