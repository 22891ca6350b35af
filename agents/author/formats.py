"""The forms in which a model may hand in an edit, and how each is read.

Code is never asked for inside JSON: models write it worse there. A model that cannot write code
still contributes by choosing among the catalogue's operators.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from nightlab.agents import catalogue
from nightlab.agents.author.answer import json_object
from nightlab.agents.author.blocks import replaced
from nightlab.agents.author.mistake import MisreadError, Mistake
from nightlab.agents.author.patch import patched
from nightlab.agents.catalogue import Operator
from nightlab.agents.question import Schema
from nightlab.vocabulary import Program

MOST_OPERATORS = 3
OFFERED = 24
"""Operators on one list."""


class Format(StrEnum):
    """How a model hands in an edit."""

    BLOCKS = "search/replace"
    WHOLE = "whole file"
    PATCH = "v4a patch"
    CHOICE = "operators"


PRIOR: Mapping[Format, float] = {
    Format.BLOCKS: 0.85,
    Format.WHOLE: 0.85,
    Format.PATCH: 0.8,
    Format.CHOICE: 0.9,
}
"""Share of usable edits expected before any is seen."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What was read from a reply."""

    program: Program
    hypothesis: str
    operators: tuple[Operator, ...] = ()
    """Those that were chosen; empty where the code was written."""


def read(form: Format, text: str, parent: Program, offered: Sequence[Operator] = ()) -> Edit:
    """The edit in a reply.

    Raises:
        MisreadError: there is none that can be made; says what to do differently.
    """
    hypothesis = hypothesis_of(text)
    if form is Format.CHOICE:
        return _chosen(text, parent, offered)
    if form is Format.BLOCKS:
        program = replaced(text, parent)
    elif form is Format.PATCH:
        program = patched(text, parent)
    else:
        program = _whole(text, parent)
    if program.id == parent.id:
        raise MisreadError(Mistake.NOTHING, "the edit changes nothing: write what you want changed")
    return Edit(program=program, hypothesis=hypothesis)


def hypothesis_of(text: str) -> str:
    """The sentence after ``HYPOTHESIS:``, or what stands before the code; one line, capped."""
    named = re.search(r"(?im)^\W*hypothesis\W*:\W*(.+)$", text)
    first = re.split(r"(?m)^```|^<{5,9}|^\*\*\* Begin", text)[0]
    said = named.group(1) if named else first
    return " ".join(said.split())[:400]


FENCE = re.compile(r"(?ms)^(?P<before>[^\n]*\n)?```[^\n]*\n(?P<code>.*?)^```\s*$")


def _whole(text: str, parent: Program) -> Program:
    """Fenced files, each after a line with its name; one file needs no name."""
    files = dict(parent.files)
    found = list(FENCE.finditer(text))
    if not found:
        cut = "```" in text
        why = "the fence is never closed" if cut else "there is no fenced file"
        raise MisreadError(Mistake.CUT_OFF if cut else Mistake.NO_EDIT, why)
    if len(files) == 1:
        (name,) = files
        return Program({name: max((m.group("code") for m in found), key=len)})
    for match in found:
        name = (match.group("before") or "").strip("`#*: \n")
        if name not in files:
            known = ", ".join(files)
            raise MisreadError(
                Mistake.FOREIGN_FILE, f"a file must follow its name, one of {known}; got {name!r}"
            )
        files[name] = match.group("code")
    return Program(files)


def schema(offered: Sequence[Operator]) -> Schema:
    """What JSON a choice must be."""
    names = [operator.name for operator in offered]
    return Schema(
        "choice",
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["operators", "hypothesis"],
            "properties": {
                "operators": {"type": "array", "items": {"type": "string", "enum": names}},
                "hypothesis": {"type": "string"},
            },
        },
    )


def _chosen(text: str, parent: Program, offered: Sequence[Operator]) -> Edit:
    """The named operators, applied in order; one of each part, what no longer fits left out."""
    program, used = parent, list[Operator]()
    for operator in _named(_list(text), offered) or _named(text, offered):
        if len(used) == MOST_OPERATORS or operator.part in {u.part for u in used}:
            continue
        if operator.applicable(program):
            program = operator.apply(program)
            used.append(operator)
    if not used or program.id == parent.id:
        example = offered[0].name if offered else ""
        raise MisreadError(
            Mistake.NO_EDIT, f"name at least one of the listed operators, such as {example}"
        )
    said = hypothesis_of(text) if "{" not in text else _said(text)
    ours = "; ".join(operator.hypothesis for operator in used)
    return Edit(program=program, hypothesis=said or ours, operators=tuple(used))


def _list(text: str) -> str:
    """The list of a JSON reply as text, so that what its hypothesis mentions is not chosen."""
    listed = (json_object(text) or {}).get("operators")
    return "; ".join(map(str, listed)) if isinstance(listed, list) else ""


def _named(text: str, offered: Sequence[Operator]) -> list[Operator]:
    """Operators in the order in which a reply names them: by name, by variant, or by number."""
    for spell in (_name, _variant):
        places: dict[int, Operator] = {}
        for operator in offered:
            pattern = spell(operator)
            if pattern and (match := re.search(pattern, text, re.IGNORECASE)):
                places.setdefault(match.start(), operator)
        if places:
            return [places[place] for place in sorted(places)]
    numbers = [int(n) for n in re.findall(r"(?<![\w.-])(\d{1,3})(?![\w.]*\d)", text)]
    return [offered[n - 1] for n in dict.fromkeys(numbers) if 1 <= n <= len(offered)]


def _name(operator: Operator) -> str:
    part, variant = _loosely(operator.part), _loosely(operator.variant)
    return rf"(?<![\w.]){part}\W{{0,4}}[:=]\W{{0,4}}{variant}(?!\w)"


def _variant(operator: Operator) -> str:
    """A variant alone, where its name is not a word or number of everyday use."""
    told = "_" in operator.variant and not operator.variant[0].isdigit()
    return rf"(?<!\w){_loosely(operator.variant)}(?!\w)" if told else ""


def _loosely(name: str) -> str:
    """A name with blanks or hyphens where it has underscores."""
    return "[ _-]?".join(map(re.escape, name.split("_")))


def _said(text: str) -> str:
    """The hypothesis field of a JSON reply; empty where it cannot be read."""
    said = (json_object(text) or {}).get("hypothesis")
    return " ".join(said.split())[:400] if isinstance(said, str) else ""


def offer(parent: Program, tried: frozenset[str]) -> list[Operator]:
    """Operators that apply to a program, but for those named in ``tried``."""
    return [o for o in catalogue.neighbours(parent) if o.name not in tried]


def shortlist(
    operators: Sequence[Operator], part: str, rng: np.random.Generator, most: int = OFFERED
) -> list[Operator]:
    """At most so many of them, half of the part in question and the others drawn evenly by part.

    A list that fits a small model's context; what is left out comes up in later draws.
    """
    order = [operators[int(at)] for at in rng.permutation(len(operators))]
    first = [o for o in order if o.part == part][: most // 2]
    turns: dict[str, int] = {}
    ranked = []
    for operator in (o for o in order if o.part != part):
        turns[operator.part] = turns.get(operator.part, 0) + 1
        ranked.append((turns[operator.part], operator))
    others = [operator for _, operator in sorted(ranked, key=lambda pair: pair[0])]
    return [*first, *others][:most]
