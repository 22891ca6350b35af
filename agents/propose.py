"""Propose: turn a decision into an edited program with a hypothesis."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from nightlab.agents import catalogue
from nightlab.agents.policy.interface import Decision
from nightlab.vocabulary import Program


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """An edit of a parent program, and why it might help."""

    program: Program
    operator: str
    """The first operator's name, ``part:variant``."""
    part: str
    hypothesis: str
    edits: tuple[str, ...]
    lines_added: int
    lines_removed: int


@dataclass(frozen=True)
class Refusal:
    """Why a decision could not be turned into a program."""

    reason: str


def from_catalogue(parent: Program, decision: Decision) -> Proposal | Refusal:
    """Apply the decision's operators one after another."""
    program = parent
    hypotheses = []
    for part, variant in decision.edits:
        operator = catalogue.operator(part, variant)
        if not operator.applicable(program):
            return Refusal(f"{operator.name} does not apply to the parent")
        program = operator.apply(program)
        hypotheses.append(operator.hypothesis)
    if not decision.edits or program.id == parent.id:
        return Refusal("the edit changes nothing")
    added, removed = changed_lines(parent, program)
    return Proposal(
        program=program,
        operator=f"{decision.part}:{decision.variant}",
        part=decision.part,
        hypothesis="; ".join(hypotheses),
        edits=tuple(f"{part}={variant}" for part, variant in decision.edits),
        lines_added=added,
        lines_removed=removed,
    )


def changed_lines(old: Program, new: Program) -> tuple[int, int]:
    """Lines added and removed over all files."""
    lines: Sequence[str] = [
        line
        for name in sorted({*old.files, *new.files})
        for line in difflib.unified_diff(
            old.files.get(name, "").splitlines(), new.files.get(name, "").splitlines(), n=0
        )
        if not line.startswith(("+++", "---"))
    ]
    return sum(line[0] == "+" for line in lines), sum(line[0] == "-" for line in lines)
