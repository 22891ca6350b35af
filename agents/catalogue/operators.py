"""The catalogue's operators: each sets one part of a program, or one dial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from nightlab.agents.catalogue.dials import LADDERS, rung, step, valid
from nightlab.agents.catalogue.plan import fits, holds, outline
from nightlab.agents.catalogue.source import PARTS, Variant, variants
from nightlab.vocabulary import Program

EDITED = "edited"
"""What ``current`` calls a part that is no variant of the catalogue."""


@dataclass(frozen=True)
class Part:
    """A part of a program, or a dial, and what it can be set to."""

    name: str
    variants: tuple[str, ...]
    """The baseline's first; a dial's in increasing order."""
    ordered: bool
    """Whether it is a dial."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One edit: set ``part`` to ``variant``."""

    part: str
    variant: str
    """Name of a variant, or the value of a dial as it is written in the recipe."""
    hypothesis: str
    """Why it might help, in a sentence."""
    source: str
    """Where the idea comes from; empty for dials."""

    @property
    def name(self) -> str:
        """``part:variant``, unique in the catalogue."""
        return f"{self.part}:{self.variant}"

    def applicable(self, program: Program) -> bool:
        """Whether the edit can be made and changes the program; never raises."""
        return _target(self, program) is not None

    def apply(self, program: Program) -> Program:
        """The edited program. Raises ValueError where the operator is not applicable."""
        from nightlab.agents.catalogue import splice

        target = _target(self, program)
        if target is None:
            raise ValueError(f"{self.name} is not applicable to program {program.id}")
        text = program.files[target]
        if self.part in LADDERS:
            edited = splice.set_dial(text, self.part, self.variant)
        else:
            edited = splice.set_part(text, variants()[self.part, self.variant])
        return replace(program, files={**program.files, target: edited})


@lru_cache(maxsize=1)
def operators() -> Sequence[Operator]:
    """Every operator of the catalogue."""
    parts = [
        Operator(part=each.part, variant=each.name, hypothesis=each.why, source=each.origin)
        for each in variants().values()
    ]
    dials = [
        Operator(
            part=dial,
            variant=value,
            hypothesis=f"{dial} {value} suits the budget better",
            source="",
        )
        for dial, rungs in LADDERS.items()
        for value in rungs
    ]
    return (*parts, *dials)


def operator(part: str, variant: str) -> Operator:
    """Look one up. Raises KeyError where the catalogue has no such operator."""
    return _by_name()[part, variant]


@lru_cache(maxsize=1)
def _by_name() -> Mapping[tuple[str, str], Operator]:
    return {(each.part, each.variant): each for each in operators()}


@lru_cache(maxsize=1)
def parts() -> Sequence[Part]:
    """Every part and dial with its variants."""
    names = dict.fromkeys(each.part for each in operators())
    return tuple(
        Part(name, tuple(o.variant for o in operators() if o.part == name), name in LADDERS)
        for name in names
    )


def current(program: Program) -> Mapping[str, str]:
    """Which variant each part holds, or ``edited``; dials by their value. Lacks absent parts."""
    found: dict[str, str] = {}
    for part, own in PARTS.items():
        file = _file_of(program, own)
        if file is not None:
            found[part] = _variant_of(program.files[file], part)
    return found | {dial: rung(dial, value) for dial, value in dials(program).items()}


def dials(program: Program) -> Mapping[str, float | int]:
    """The recipe's dials that the catalogue knows, where their defaults are plain numbers."""
    file = _file_of(program, "Recipe")
    own = outline(program.files[file]) if file is not None else None
    return {k: v for k, v in own.numbers.items() if k in LADDERS} if own is not None else {}


def neighbours(program: Program) -> Sequence[Operator]:
    """The applicable operators, with dials held to one step up or down their ladders."""
    values = dials(program)
    near = {(dial, step(dial, value, by)) for dial, value in values.items() for by in (-1, 1)}
    return [
        each
        for each in operators()
        if (each.part not in LADDERS or (each.part, each.variant) in near)
        and each.applicable(program)
    ]


def _variant_of(text: str, part: str) -> str:
    names = (each.name for each in variants().values() if each.part == part and holds(text, each))
    return next(names, EDITED)


def _file_of(program: Program, definition: str) -> str | None:
    for name in sorted(program.files, key=lambda file: (file != "program.py", file)):
        own = outline(program.files[name])
        if own is not None and definition in own.definitions:
            return name
    return None


def _target(operator: Operator, program: Program) -> str | None:
    """The file that the operator edits, or None where it is not applicable."""
    if operator.part in LADDERS:
        values = dict(dials(program))
        old, new = values.get(operator.part), float(operator.variant)
        if old is None or old == new or not valid({**values, operator.part: new}, values):
            return None
        return _file_of(program, "Recipe")
    variant: Variant = variants()[operator.part, operator.variant]
    file = _file_of(program, PARTS[operator.part])
    if (
        file is None
        or holds(program.files[file], variant)
        or not fits(program.files[file], variant)
    ):
        return None
    return file
