"""Where some lines of an edit are in a file: exactly, or but for trailing space and indentation."""

import difflib
from collections.abc import Sequence

from nightlab.agents.author.mistake import MisreadError, Mistake


def put(lines: Sequence[str], old: Sequence[str], new: Sequence[str], file: str) -> list[str]:
    """The lines with ``old``, found once, replaced by ``new``.

    Raises:
        MisreadError: the old lines are nowhere, or in several places.
    """
    for alike in (_same, _rstripped, _stripped):
        places = [at for at in range(len(lines) - len(old) + 1) if alike(lines, old, at)]
        if len(places) > 1:
            raise MisreadError(
                Mistake.AMBIGUOUS,
                f"the lines to replace are in {file} {len(places)} times: add lines around them\n"
                + "\n".join(old[:5]),
            )
        if places:
            (at,) = places
            made = _shifted(lines[at : at + len(old)], old, new) if alike is _stripped else new
            return [*lines[:at], *made, *lines[at + len(old) :]]
    raise MisreadError(
        Mistake.NOT_FOUND,
        f"these lines are not in {file}:\n{_short(old)}\nthe most similar there are:\n"
        f"{_short(_similar(lines, old))}",
    )


def _same(lines: Sequence[str], old: Sequence[str], at: int) -> bool:
    return all(lines[at + i] == line for i, line in enumerate(old))


def _rstripped(lines: Sequence[str], old: Sequence[str], at: int) -> bool:
    return all(lines[at + i].rstrip() == line.rstrip() for i, line in enumerate(old))


def _stripped(lines: Sequence[str], old: Sequence[str], at: int) -> bool:
    """The same but for one shift of all indentation."""
    here = lines[at : at + len(old)]
    shifts = {_indent(a) - _indent(b) for a, b in zip(here, old, strict=True) if a.strip()}
    alike = all(a.strip() == b.strip() for a, b in zip(here, old, strict=True))
    return alike and len(shifts) == 1 and any(line.strip() for line in old)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _shifted(here: Sequence[str], old: Sequence[str], new: Sequence[str]) -> list[str]:
    """New lines, indented as the file is where the model indented otherwise."""
    first = next(i for i, line in enumerate(here) if line.strip())
    by = _indent(here[first]) - _indent(old[first])
    return [
        (" " * by + line if by > 0 else line[min(-by, _indent(line)) :]) if line.strip() else ""
        for line in new
    ]


def _similar(lines: Sequence[str], old: Sequence[str]) -> Sequence[str]:
    """The window of the file that is most like the old lines."""
    key = max(old, key=lambda line: len(line.strip()), default="")
    close = difflib.get_close_matches(key, lines, n=1, cutoff=0.3)
    if not close:
        return lines[:5]
    at = max(0, lines.index(close[0]) - old.index(key))
    return lines[at : at + len(old)]


def _short(lines: Sequence[str]) -> str:
    return "\n".join(line[:200] for line in lines[:12])
