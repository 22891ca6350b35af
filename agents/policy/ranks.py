"""Ranks of values, the policy's common currency."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mid_ranks(values: Floats) -> Floats:
    """Rank of each value from 1 (least), ties share their mean rank, shape kept."""
    order = np.sort(values)
    low = np.searchsorted(order, values, side="left")
    high = np.searchsorted(order, values, side="right")
    ranks: Floats = (low + high + 1) / 2.0
    return ranks


def top_ranks(values: Floats) -> Floats:
    """Rank of each value from 1 (greatest), ties share the better one, shape kept."""
    order = np.sort(values)
    above = len(values) - np.searchsorted(order, values, side="right")
    return (above + 1).astype(np.float64)
