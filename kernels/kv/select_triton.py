# mypy: disable-error-code="import-untyped,untyped-decorator,no-untyped-def"
"""Pool, top-k and ordered emission of kept rows in one Triton kernel.

One program per head. Scores become integers that sort like the floats; the k-th largest is
found bit by bit from the top (32 counting passes); then one pass writes the kept positions in
ascending order, ties to the lower position. Twin of
:func:`nightlab.kernels.kv.selection.select_rows`.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from nightlab.kernels.kv.selection import Kept

BLOCK = 1024


@triton.jit
def _pooled_keys(s_ptr, t, T, length, sinks, recent, pool: tl.constexpr):
    """Sortable keys (int64) of the pooled scores at t: -1 past the end, the highest if forced."""
    best = tl.full(t.shape, -float("inf"), tl.float32)
    for shift in tl.static_range(pool):
        at = t + shift - pool // 2
        inside = (at >= 0) & (at < T)
        best = tl.maximum(best, tl.load(s_ptr + at, mask=inside, other=-float("inf")))
    best = best + 0.0  # -0.0 becomes 0.0, so that the two tie
    bits = best.to(tl.int32, bitcast=True)
    # Floats order as integers once negatives are mirrored: map them to 0 .. 2^32 - 1.
    key = tl.where(bits < 0, -1 - bits.to(tl.int64) - 2147483648, bits.to(tl.int64)) + 2147483648
    sink_count = tl.minimum(sinks, length)
    recent_count = tl.minimum(recent, length - sink_count)
    forced = (t < sink_count) | (t >= T - recent_count)
    key = tl.where(forced, 4294967296, key)
    return tl.where(t < T, key, -1)


@triton.jit
def select_kernel(
    s_ptr, length_ptr, start_ptr, index_ptr, T, sinks, recent,
    pool: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (B * G,): writes the kept positions of one head at ``start_ptr[head]``."""
    head = tl.program_id(0)
    s_ptr += head.to(tl.int64) * T
    length = tl.load(length_ptr + head)
    at = tl.arange(0, BLOCK)
    # The largest threshold that at least ``length`` keys reach, one bit at a time.
    threshold = tl.zeros((), tl.int64)
    for bit in range(33):
        trial = threshold + (tl.full((), 1, tl.int64) << (32 - bit))
        count = tl.zeros((), tl.int64)
        for start in range(0, T, BLOCK):
            key = _pooled_keys(s_ptr, start + at, T, length, sinks, recent, pool)
            count += tl.sum((key >= trial).to(tl.int64), 0)
        threshold = tl.where(count >= length, trial, threshold)
    above = tl.zeros((), tl.int64)
    for start in range(0, T, BLOCK):
        key = _pooled_keys(s_ptr, start + at, T, length, sinks, recent, pool)
        above += tl.sum((key > threshold).to(tl.int64), 0)
    ties_left = length - above
    out = tl.load(start_ptr + head)
    for start in range(0, T, BLOCK):
        key = _pooled_keys(s_ptr, start + at, T, length, sinks, recent, pool)
        tie = (key == threshold).to(tl.int64)
        rank = tl.cumsum(tie, 0)
        stays = ((key > threshold) | ((tie == 1) & (rank <= ties_left))).to(tl.int64)
        slot = out + tl.cumsum(stays, 0) - 1
        tl.store(index_ptr + slot, (start + at).to(tl.int64), mask=stays == 1)
        out += tl.sum(stays, 0)
        ties_left -= tl.sum(tie, 0)


def select_rows(
    s_BGT: Tensor, lengths_BG: Tensor, *, sinks: int = 0, recent: int = 0, pool: int = 1
) -> Kept:
    """See the twin. ``pool`` is unrolled: one kernel per width."""
    B, G, T = s_BGT.shape
    lengths = lengths_BG.clamp(min=0, max=T)
    starts = F.pad(lengths.flatten().cumsum(0), (1, 0))
    rows = int(starts[-1])
    index = torch.empty(rows, dtype=torch.int64, device=s_BGT.device)
    scores = s_BGT.float().contiguous()
    if rows > 0:
        select_kernel[(B * G,)](
            scores, lengths.contiguous(), starts, index, T, sinks, recent,
            pool=pool, BLOCK=min(BLOCK, triton.next_power_of_2(T)),
        )  # fmt: skip
    return Kept(index, lengths)
