"""Which path each op took, and why: nothing falls back in silence.

An op calls :func:`record` when it has chosen a path; :func:`explain` lists the last choice of every
op. The record is per process and holds one entry an op, so it costs nothing in a training loop.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """The last path an op took."""

    op: str
    """Name of the op, such as ``index_cache.sparse_attention``."""
    path: str
    """``reference``, ``triton``, or the op's own name for a torch path."""
    reason: str
    """Why this path, in words."""
    calls: int = 1
    """How often in a row the op chose this path for this reason."""

    def __str__(self) -> str:
        return f"{self.op}: {self.path} ({self.reason}; {self.calls} calls)"


_choices: dict[str, tuple[str, str]] = {}
_calls: dict[str, int] = {}


def record(op: str, path: str, reason: str) -> None:
    """Note that ``op`` runs on ``path`` because of ``reason``."""
    chosen = (path, reason)
    if _choices.get(op) == chosen:
        _calls[op] += 1
    else:
        _choices[op], _calls[op] = chosen, 1


def explain(op: str | None = None) -> tuple[Choice, ...]:
    """The last choice of every op that has run in this process, or of one op; sorted by name."""
    names = sorted(name for name in _choices if op is None or name == op)
    return tuple(Choice(name, *_choices[name], _calls[name]) for name in names)


def forget() -> None:
    """Empty the record, so that what follows can be told apart from what went before."""
    _choices.clear()
    _calls.clear()
