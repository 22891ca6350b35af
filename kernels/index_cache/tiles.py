"""Tile sizes, warps and stages of every Triton launch.

Chosen so that neither sm_80 nor sm_90 spills; ``compiled`` builds exactly these.
"""

from typing import TypedDict


class Launch(TypedDict):
    """Keyword arguments that every launch takes."""

    num_warps: int
    num_stages: int


LOGITS = Launch(num_warps=8, num_stages=2)
BLOCK_SCORES = Launch(num_warps=4, num_stages=2)
TOPK = Launch(num_warps=8, num_stages=2)
TOPK_COLUMNS = 2048
SELECTED = Launch(num_warps=4, num_stages=2)
SELECTED_BACKWARD = Launch(num_warps=8, num_stages=1)
ORDERED_DKV = Launch(num_warps=4, num_stages=1)
DECODE = Launch(num_warps=8, num_stages=2)
BLOCK_DKV = Launch(num_warps=8, num_stages=1)
TARGET = Launch(num_warps=4, num_stages=2)

SLOTS = 64
"""Slots a program of a token kernel reads at once."""
SLOTS_BACKWARD = 32
ORDERED_QUERIES = 16
"""Queries that the ordered dK/dV kernel reads at once."""


def logits_tile(heads: int, width: int) -> tuple[int, int]:
    """Queries and keys of an ``indexer_logits`` tile."""
    return (64, 128) if heads * width <= 1024 else (128, 64)


def token(group: int, stages: int) -> Launch:
    """Token forward (2 stages) and backward (1), by padded query heads per KV head."""
    return Launch(num_warps=4 if group < 64 else 8, num_stages=stages)


def block(width: int, stages: int) -> Launch:
    """Block forward (2 stages) and dq (1), by padded head width."""
    return Launch(num_warps=4 if width <= 64 else 8, num_stages=stages)
