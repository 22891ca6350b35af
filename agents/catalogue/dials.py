"""The dials of a recipe: the values the lab tries for each, and which settings are valid.

A dial is a field of the program's ``Recipe`` with a number as its default. Rungs of a ladder are
kept as text, so that an edit writes ``3e-3`` and not ``0.003``.
"""

from collections.abc import Mapping
from types import MappingProxyType

LADDERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "depth": ("1", "2", "3", "4", "5", "6", "8"),
        "width": ("32", "48", "64", "96", "128", "192", "256"),
        "heads": ("1", "2", "4", "8", "16"),
        "hidden_ratio": ("1.0", "2.0", "3.0", "4.0", "6.0", "8.0"),
        "context": ("32", "64", "128", "256", "512"),
        "batch": ("4", "8", "16", "32", "64", "128"),
        "learning_rate": ("3e-4", "1e-3", "2e-3", "3e-3", "5e-3", "8e-3", "1.2e-2", "2e-2"),
        "weight_decay": ("0.0", "0.01", "0.03", "0.1", "0.3", "1.0"),
        "beta2": ("0.9", "0.95", "0.98", "0.99", "0.999"),
        "clip": ("0.0", "0.3", "1.0", "3.0"),
        "warmup": ("0.0", "0.02", "0.05", "0.1", "0.2"),
        "rotary_base": ("100.0", "1000.0", "10000.0"),
        "window": ("8", "16", "32", "64"),
        "experts": ("2", "4", "8"),
        "keep": ("0.03125", "0.0625", "0.125", "0.25", "0.5", "0.75"),
    }
)
"""In increasing order. The last rows are dials that some variants add to the recipe."""

LONGEST_CONTEXT = 512
MOST_TOKENS = 32 * 512
"""Bytes of one training step: keeps the logits and scores of a step within a small machine."""


def rung(dial: str, value: float) -> str:
    """The ladder's text for a value, or the value's own text where the ladder lacks it."""
    for text in LADDERS.get(dial, ()):
        if float(text) == float(value):
            return text
    return repr(value)


def step(dial: str, value: float, by: int) -> str | None:
    """The next rung above (``by`` = 1) or below (-1) a value; None at the ladder's end."""
    rungs = LADDERS[dial]
    if by > 0:
        return next((text for text in rungs if float(text) > value), None)
    return next((text for text in reversed(rungs) if float(text) < value), None)


def valid(dials: Mapping[str, float], before: Mapping[str, float] = MappingProxyType({})) -> bool:
    """Whether a program with these dials can be built and trained here.

    What a program's step already holds ``before`` the edit is never too much. Dials that the
    program lacks are not checked, so edited programs get the benefit of the doubt.
    """
    width, heads = dials.get("width"), dials.get("heads")
    if width is not None and heads is not None and (width % heads or (width // heads) % 2):
        return False
    context, batch = dials.get("context", 1), dials.get("batch", 1)
    old = before.get("context", 1)
    longest = max(LONGEST_CONTEXT, old)
    most = max(MOST_TOKENS, old * before.get("batch", 1))
    if not 1 <= context <= longest or batch < 1 or context * batch > most:
        return False
    return all(dials.get(name, 1) >= 1 for name in ("depth", "width", "heads", "window", "experts"))
