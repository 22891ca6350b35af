"""Edits with a known answer for real campaigns."""

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from nightlab.agents import catalogue
from nightlab.errors import UsageError
from nightlab.vocabulary import Program


class Kind(StrEnum):
    """What an edit is known to do."""

    NULL = "null"
    """Nothing: the program computes the same numbers."""
    GAIN = "gain"
    LOSS = "loss"


@dataclass(frozen=True)
class Planted:
    """An edited program with a known answer."""

    name: str
    kind: Kind
    program: Program


KNOWN: Mapping[Kind, tuple[Mapping[str, str], ...]] = {
    Kind.GAIN: ({"learning_rate": "1.2e-2", "batch": "8"}, {"depth": "1"}),
    Kind.LOSS: ({"learning_rate": "3e-4"}, {"learning_rate": "1e-3"}),
}
"""Catalogue edits of the byte-level baseline whose effect on its smallest rung is many times the
noise, as measured (``docs/statistics.md``): one layer beats three in 5 CPU seconds."""


def known(baseline: Program) -> list[Planted]:
    """The edits of :data:`KNOWN`, and two that change nothing.

    Raises:
        UsageError: one of them does not apply to the baseline.
    """
    made = list(nulls(baseline, 2))
    for kind, edits in KNOWN.items():
        for edit in edits:
            program = baseline
            for part, variant in edit.items():
                operator = catalogue.operator(part, variant)
                if not operator.applicable(program):
                    raise UsageError(f"{operator.name} does not apply to the task's baseline")
                program = operator.apply(program)
            name = ", ".join(f"{part}={variant}" for part, variant in edit.items())
            made.append(Planted(name, kind, program))
    return made


def nulls(baseline: Program, count: int) -> Iterator[Planted]:
    """Edits that change nothing but that the vetting cannot tell from others.

    Each renames an attribute throughout, and every other one also adds comments and moves
    definitions. (What only renames locals, moves definitions or adds comments is refused as the
    same program before any training: :func:`unseen`.)
    """
    ((file, text),) = baseline.files.items()
    names = attributes(text)
    for number in range(count):
        old = names[number % len(names)]
        new = f"{old}_{number // len(names) + 1}"
        made, said = renamed(text, old, new), f"{old} -> {new}"
        if number % 2:
            made, said = commented(reordered(made)), f"{said}, moved, commented"
        yield Planted(said, Kind.NULL, Program({file: made}))


def unseen(baseline: Program) -> list[Planted]:
    """Null edits that the normalised syntax tree sees through."""
    ((file, text),) = baseline.files.items()
    made = {
        "comments added": commented(text),
        "definitions moved": reordered(text),
        "a local variable renamed": renamed(text, "hidden", "inner_size"),
    }
    return [Planted(name, Kind.NULL, Program({file: made[name]})) for name in made]


def attributes(text: str) -> list[str]:
    """Names that are set on ``self`` and stand for nothing else, so that renaming is safe."""
    tree = ast.parse(text)
    own = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    fields = {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    imported = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    return sorted(own - fields - keywords - imported)


def renamed(text: str, old: str, new: str) -> str:
    """The text with every name ``old`` replaced; strings and comments stay."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    places = [t.start for t in tokens if t.type == tokenize.NAME and t.string == old]
    lines = text.splitlines(keepends=True)
    for row, column in reversed(places):
        line = lines[row - 1]
        lines[row - 1] = line[:column] + new + line[column + len(old) :]
    return "".join(lines)


def commented(text: str) -> str:
    """The text with a comment above every definition."""
    lines = [
        f"# {line.split()[1].split('(')[0].rstrip(':')}\n{line}"
        if line.startswith(("class ", "def "))
        else line
        for line in text.splitlines(keepends=True)
    ]
    return "".join(lines)


def reordered(text: str) -> str:
    """The text with its first two neighbouring classes that do not need each other swapped."""
    lines, body = text.splitlines(keepends=True), ast.parse(text).body
    for first, second in pairwise(body):
        if not isinstance(first, ast.ClassDef) or not isinstance(second, ast.ClassDef):
            continue
        if first.decorator_list or second.decorator_list or _reads(second, first.name):
            continue
        a, b = first.lineno - 1, second.lineno - 1
        end = second.end_lineno or len(lines)
        gap = lines[first.end_lineno or b : b]
        return "".join(lines[:a] + lines[b:end] + gap + lines[a : first.end_lineno] + lines[end:])
    raise UsageError("the program has no two neighbouring classes that may be swapped")


def _reads(node: ast.AST, name: str) -> bool:
    return any(isinstance(inner, ast.Name) and inner.id == name for inner in ast.walk(node))
