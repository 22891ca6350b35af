"""The catalogue of edit operators: how the lab changes a program without a language model.

from nightlab.agents.catalogue import current, neighbours, operator, operators, parts, tree_hash
rotary = operator("position", "rotary")
if rotary.applicable(program):
    program = rotary.apply(program)           # current(program)["position"] == "rotary"

Importing it loads neither torch nor libcst; the variants' files are read, never imported.
"""

from nightlab.agents.catalogue.operators import (
    EDITED,
    Operator,
    Part,
    current,
    dials,
    neighbours,
    operator,
    operators,
    parts,
)
from nightlab.agents.catalogue.source import version
from nightlab.agents.catalogue.syntax import tree_hash

CATALOGUE_VERSION = version()
"""Content hash of the catalogue: another version is another environment."""

__all__ = [
    "CATALOGUE_VERSION",
    "EDITED",
    "Operator",
    "Part",
    "current",
    "dials",
    "neighbours",
    "operator",
    "operators",
    "parts",
    "tree_hash",
]
