"""Which layer and which expert a feed-forward is, read off the names of its parameters.

A layer is a block of the model: the shortest prefix of the names whose number differs between
feed-forwards (``model.layers.3``), in the order in which blocks first ran. An expert is a number
that differs inside a block, or a row of a batched parameter.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

Key = tuple[str, str, int, int]
"""Gate and down parameter, occurrence within the forward pass, row of a batched parameter."""


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward that was found."""

    path: str
    """Where it lives: the common part of its parameters' names."""
    kind: Literal["plain", "gated"]
    gate: str
    """Name of the parameter before the activation."""
    up: str | None
    """Name of the ungated branch's parameter, in a gated feed-forward."""
    down: str
    width: int
    """Hidden units, D."""
    layer: int = 0
    """Depth, from 0; all feed-forwards of one block share it."""
    expert: int | None = None


def common_path(names: Iterable[str]) -> str:
    """The dotted prefix that parameter names share, without the parameters' own names.

    Rows of batched parameters (``h.0.up[2]``, ``h.0.down[2]``) live at ``h.0.2``.
    """
    names = list(names)
    rows = {name.partition("[")[2].rstrip("]") for name in names}
    shared: list[str] = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    row = rows.pop()
    return ".".join([*shared, row] if row and not rows else shared) or names[0]


def arranged(found: Mapping[Key, FeedForward]) -> dict[Key, FeedForward]:
    """The feed-forwards with their layers and experts, in order of depth."""
    paths = {key: each.path.split(".") for key, each in found.items()}
    at = _block_position(list(paths.values()))
    blocks: dict[tuple[object, ...], int] = {}
    placed: dict[Key, FeedForward] = {}
    batched = {key[:3] for key in found if key[3] > 0}
    trunks = [_trunk(each.path)[0] for each in found.values()]
    for key, each in found.items():
        trunk, number = _trunk(each.path)
        block = (*(paths[key][: at + 1] if at is not None else (trunk,)), key[2])
        layer = blocks.setdefault(block, len(blocks))
        expert = number if trunks.count(trunk) > 1 and trunk != each.path else None
        if at is not None and len(paths[key]) == at + 1:
            expert = None
        if key[:3] in batched:
            expert = key[3]
        placed[key] = replace(each, layer=layer, expert=expert)
    return dict(sorted(placed.items(), key=lambda item: (item[1].layer, item[1].expert or 0)))


def _block_position(paths: list[list[str]]) -> int | None:
    """Where in the dotted paths the number of the block stands, if any number differs."""
    for at in range(max((len(path) for path in paths), default=0)):
        numbers = {path[at] for path in paths if len(path) > at and path[at].isdecimal()}
        owners = {path[at - 1] for path in paths if at and len(path) > at}
        if len(numbers) > 1 and not any("expert" in owner for owner in owners):
            return at
    return None


def _trunk(path: str) -> tuple[str, int | None]:
    """Path without the number at its end: ``h.0.experts.3`` is expert 3 of ``h.0.experts``."""
    nested = re.fullmatch(r"(.+)\.(\d+)", path)
    return (nested[1], int(nested[2])) if nested else (path, None)
