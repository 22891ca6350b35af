"""V4A patches: the format that OpenAI's models are trained on.

*** Begin Patch
*** Update File: program.py
@@ class Norm
 a line that stays
-a line that goes
+a line that comes
*** End Patch
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from nightlab.agents.author.mistake import MisreadError, Mistake
from nightlab.agents.author.place import put
from nightlab.vocabulary import Program


@dataclass
class _Hunk:
    file: str
    anchor: str = ""
    """A line above the change, from which on it is looked for."""
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


def patched(text: str, parent: Program) -> Program:
    """The parent with a reply's patch carried out.

    Raises:
        MisreadError: there is no patch, it is cut off, touches other files, or does not fit.
    """
    files = {name: content.split("\n") for name, content in parent.files.items()}
    hunks = list(_hunks(_body(text), files))
    if not hunks:
        raise MisreadError(Mistake.NO_EDIT, "the patch changes no line")
    for hunk in hunks:
        lines = files[hunk.file]
        start = _anchored(lines, hunk)
        below = put(lines[start:], hunk.old, hunk.new, hunk.file)
        files[hunk.file] = [*lines[:start], *below]
    return Program({name: "\n".join(lines) for name, lines in files.items()})


def _body(text: str) -> list[str]:
    begin = re.search(r"(?m)^\*\*\* Begin Patch\s*$", text)
    if begin is None:
        raise MisreadError(Mistake.NO_EDIT, "there is no `*** Begin Patch` in the reply")
    end = re.search(r"(?m)^\*\*\* End Patch\s*$", text[begin.end() :])
    if end is None:
        raise MisreadError(Mistake.CUT_OFF, "the patch has no `*** End Patch`")
    return text[begin.end() :][: end.start()].strip("\n").split("\n")


def _hunks(lines: list[str], files: dict[str, list[str]]) -> Iterator[_Hunk]:
    hunk: _Hunk | None = None
    for line in lines:
        if match := re.match(r"\*\*\* (Update|Add|Delete|Move).*?:\s*(.+?)\s*$", line):
            yield from _done(hunk)
            if match.group(1) != "Update" or match.group(2) not in files:
                raise MisreadError(
                    Mistake.FOREIGN_FILE,
                    f"only `*** Update File:` of {', '.join(files)} is allowed, not {line.strip()}",
                )
            hunk = _Hunk(match.group(2))
        elif hunk is None or line.startswith("*** End of File"):
            continue
        elif line.startswith("@@"):
            yield from _done(hunk)
            hunk = _Hunk(hunk.file, anchor=line.strip("@ "))
        elif line.startswith("-"):
            hunk.old.append(line[1:])
        elif line.startswith("+"):
            hunk.new.append(line[1:])
        else:
            kept = line[1:] if line.startswith(" ") else line
            hunk.old.append(kept)
            hunk.new.append(kept)
    yield from _done(hunk)


def _done(hunk: _Hunk | None) -> Iterator[_Hunk]:
    if hunk is None or hunk.old == hunk.new:
        return
    if not any(line.strip() for line in hunk.old):
        raise MisreadError(Mistake.NOT_FOUND, "a hunk has no line of the file: add context lines")
    yield hunk


def _anchored(lines: list[str], hunk: _Hunk) -> int:
    if not hunk.anchor:
        return 0
    places = [at for at, line in enumerate(lines) if line.strip().startswith(hunk.anchor)]
    return places[0] if places else 0
