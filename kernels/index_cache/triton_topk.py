"""Triton: exact top-k of a row by a four-pass radix threshold; ascending, lowest index on ties."""

# The kernel language is outside the type system of Python:
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def ordered(x):
    """int32 with the order of the float: -0.0 becomes +0.0 first."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def topk_kernel(logits_ptr, out_ptr, columns, slots, row_stride, BN: tl.constexpr):
    """out int32 [rows, slots], preset to -1. Grid (rows,). -inf is never chosen.

    Each pass narrows the threshold by 8 bits: among the keys that share the prefix found so far, a
    histogram of the next digit gives the digit where the count from above reaches what is needed.
    """
    row = tl.program_id(0).to(tl.int64)
    base = logits_ptr + row * row_stride
    bins = tl.arange(0, 256)
    prefix = 0
    known = 0
    need = slots
    for step in tl.static_range(4):
        shift = 24 - 8 * step
        histogram = tl.zeros([256], tl.int32)
        for start in range(0, columns, BN):
            column = start + tl.arange(0, BN)
            x = tl.load(base + column, mask=column < columns, other=float("-inf"))
            digits = ordered(x) ^ -2147483648
            same = (x > float("-inf")) & (((digits ^ prefix) & known) == 0)
            histogram += tl.histogram((digits >> shift) & 255, 256, mask=same)
        if step == 0:
            need = tl.minimum(need, tl.sum(histogram, 0))
        from_above = tl.sum(histogram, 0) - tl.cumsum(histogram, 0) + histogram
        digit = tl.max(tl.where(from_above >= need, bins, 0), 0)
        need -= tl.sum(tl.where(bins > digit, histogram, 0), 0)
        prefix = prefix | (digit << shift)
        known = known | (255 << shift)
    threshold = prefix ^ -2147483648
    written = 0
    ties = 0
    for start in range(0, columns, BN):
        column = start + tl.arange(0, BN)
        x = tl.load(base + column, mask=column < columns, other=float("-inf"))
        key = ordered(x)
        real = x > float("-inf")
        tie = real & (key == threshold)
        rank = ties + tl.cumsum(tie.to(tl.int32), 0)
        take = (real & (key > threshold)) | (tie & (rank <= need))
        place = written + tl.cumsum(take.to(tl.int32), 0) - 1
        tl.store(out_ptr + row * slots + place, column, mask=take)
        written += tl.sum(take.to(tl.int32), 0)
        ties += tl.sum(tie.to(tl.int32), 0)
