"""SEARCH/REPLACE blocks: the edit format that most models write best.

program.py
<<<<<<< SEARCH
exact lines of the file
=======
what stands there instead
>>>>>>> REPLACE
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nightlab.agents.author.mistake import MisreadError, Mistake
from nightlab.agents.author.place import put
from nightlab.vocabulary import Program

OPEN = re.compile(r"^\s*<{5,9}\s*SEARCH\b")
MIDDLE = re.compile(r"^\s*={5,9}\s*$")
CLOSE = re.compile(r"^\s*>{5,9}\s*REPLACE\b")


@dataclass(frozen=True)
class _Block:
    file: str
    old: list[str]
    new: list[str]


def replaced(text: str, parent: Program) -> Program:
    """The parent with every block of a reply carried out in order.

    Raises:
        MisreadError: there is no block, one is cut off, or its lines are not found once.
    """
    files = {name: content.split("\n") for name, content in parent.files.items()}
    count = 0
    for block in _blocks(text, list(files)):
        if block.file not in files:
            raise MisreadError(
                Mistake.FOREIGN_FILE, f"{block.file!r} may not be edited; {', '.join(files)} may"
            )
        if not any(line.strip() for line in block.old):
            raise MisreadError(Mistake.NOT_FOUND, "a SEARCH part is empty: quote lines to replace")
        files[block.file] = put(files[block.file], block.old, block.new, block.file)
        count += 1
    if not count:
        raise MisreadError(Mistake.NO_EDIT, "there is no SEARCH/REPLACE block in the reply")
    return Program({name: "\n".join(lines) for name, lines in files.items()})


def _blocks(text: str, files: list[str]) -> Iterator[_Block]:
    lines = text.split("\n")
    at, file = 0, files[0] if len(files) == 1 else ""
    while at < len(lines):
        if not OPEN.match(lines[at]):
            file = _named(lines[at], file)
            at += 1
            continue
        middle = _next(lines, at + 1, MIDDLE)
        close = _next(lines, middle + 1, CLOSE)
        if not file:
            raise MisreadError(
                Mistake.FOREIGN_FILE, f"name the file before its block: {', '.join(files)}"
            )
        yield _Block(file, lines[at + 1 : middle], lines[middle + 1 : close])
        at = close + 1


def _named(line: str, file: str) -> str:
    """A line that is nothing but a file's name or path, bare or decorated."""
    match = re.fullmatch(
        r"[`#*\s]*(?:file:?\s*)?([\w./\\-]+\.\w{1,5})[`*:\s]*", line, re.IGNORECASE
    )
    return match.group(1) if match else file


def _next(lines: list[str], start: int, marker: re.Pattern[str]) -> int:
    for at in range(start, len(lines)):
        if marker.match(lines[at]):
            return at
    raise MisreadError(Mistake.CUT_OFF, "a SEARCH/REPLACE block is not closed")
