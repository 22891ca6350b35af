"""Triton: index logits, pooled block scores, and the logits of selected slots with their gradient.

All tensors are contiguous. ``UP`` casts dot operands to fp32, which the interpreter needs for bf16.
"""

# The kernel language is outside the type system of Python:
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def dot(a, b, UP: tl.constexpr):
    """fp32 product of two tiles; fp32 operands keep full precision."""
    if UP:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def head_scores(
    q_ptr,
    k_tile,
    w_ptr,
    rows,
    inside,
    dims,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    RELU: tl.constexpr,
    UP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """sum_h w[row, h] relu(q[row, h] . k) for one tile of rows and keys, fp32 [BM, BN]."""
    scores = tl.zeros([BM, BN], tl.float32)
    for head in range(HEADS):
        line = rows * HEADS + head
        loaded = inside[:, None] & (dims < WIDTH)[None, :]
        q = tl.load(q_ptr + line[:, None] * WIDTH + dims[None, :], mask=loaded, other=0.0)
        dots = dot(q, k_tile, UP)
        if RELU:
            dots = tl.maximum(dots, 0.0)
        weight = tl.load(w_ptr + line, mask=inside, other=0.0).to(tl.float32)
        scores += dots * weight[:, None]
    return scores


@triton.jit
def indexer_logits_kernel(
    q_ptr,
    k_ptr,
    w_ptr,
    out_ptr,
    queries,
    keys,
    q_offset,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_P: tl.constexpr,
    RELU: tl.constexpr,
    UP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """out [B, C, S] = I, -inf above the diagonal. Grid (key tiles, query tiles, B)."""
    batch = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(1) * BM + tl.arange(0, BM)
    cols = tl.program_id(0) * BN + tl.arange(0, BN)
    inside = rows < queries
    out = out_ptr + batch * queries * keys + rows[:, None].to(tl.int64) * keys + cols[None, :]
    stored = inside[:, None] & (cols < keys)[None, :]
    if tl.program_id(0) * BN > q_offset + tl.program_id(1) * BM + BM - 1:
        tl.store(out, tl.full([BM, BN], float("-inf"), tl.float32), mask=stored)
    else:
        dims = tl.arange(0, WIDTH_P)
        k_at = k_ptr + (batch * keys + cols)[None, :] * WIDTH + dims[:, None]
        k = tl.load(k_at, mask=(dims < WIDTH)[:, None] & (cols < keys)[None, :], other=0.0)
        lines = batch * queries + rows
        scores = head_scores(q_ptr, k, w_ptr, lines, inside, dims, HEADS, WIDTH, RELU, UP, BM, BN)
        seen = cols[None, :] <= (rows + q_offset)[:, None]
        tl.store(out, tl.where(seen, scores, float("-inf")), mask=stored)


@triton.jit
def block_scores_kernel(
    q_ptr,
    k_ptr,
    w_ptr,
    position_ptr,
    out_ptr,
    tiles,
    window,
    keys,
    block_k,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_P: tl.constexpr,
    RELU: tl.constexpr,
    UP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """out [B, R, nK] = maximum of the causal logits of window x block. Grid (nK, R, B).

    q [B, R, W, I, d] and w [B, R, W, I] are windowed; position [R, W] is -1 where no query is.
    """
    batch = tl.program_id(2).to(tl.int64)
    tile = tl.program_id(1)
    member = tl.arange(0, BM)
    inner = tl.arange(0, BN)
    cols = tl.program_id(0) * block_k + inner
    inside = member < window
    position = tl.load(position_ptr + tile * window + member, mask=inside, other=-1)
    out = out_ptr + (batch * tiles + tile) * tl.num_programs(0) + tl.program_id(0)
    if tl.program_id(0) * block_k > tl.max(position, 0):
        tl.store(out, float("-inf"))
    else:
        dims = tl.arange(0, WIDTH_P)
        real = (inner < block_k) & (cols < keys)
        k_at = k_ptr + (batch * keys + cols)[None, :] * WIDTH + dims[:, None]
        k = tl.load(k_at, mask=(dims < WIDTH)[:, None] & real[None, :], other=0.0)
        lines = (batch * tiles + tile) * window + member
        scores = head_scores(q_ptr, k, w_ptr, lines, inside, dims, HEADS, WIDTH, RELU, UP, BM, BN)
        seen = real[None, :] & (cols[None, :] <= position[:, None])
        tl.store(out, tl.max(tl.max(tl.where(seen, scores, float("-inf")), 1), 0))


@triton.jit
def selected_logits_kernel(
    q_ptr,
    k_ptr,
    w_ptr,
    index_ptr,
    out_ptr,
    queries,
    keys,
    slots,
    q_offset,
    HEADS: tl.constexpr,
    HEADS_P: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_P: tl.constexpr,
    RELU: tl.constexpr,
    UP: tl.constexpr,
    BK: tl.constexpr,
):
    """out [B, T, K] = logits of each query's slots, -inf where invalid. Grid (T, B)."""
    batch = tl.program_id(1).to(tl.int64)
    line = batch * queries + tl.program_id(0)
    heads, dims = tl.arange(0, HEADS_P), tl.arange(0, WIDTH_P)
    q_mask = (heads < HEADS)[:, None] & (dims < WIDTH)[None, :]
    q_at = q_ptr + (line * HEADS + heads)[:, None] * WIDTH + dims[None, :]
    q = tl.load(q_at, mask=q_mask, other=0.0)
    w = tl.load(w_ptr + line * HEADS + heads, mask=heads < HEADS, other=0.0).to(tl.float32)
    for start in range(0, slots, BK):
        slot = start + tl.arange(0, BK)
        key = tl.load(index_ptr + line * slots + slot, mask=slot < slots, other=-1)
        valid = (key >= 0) & (key < keys) & (key <= tl.program_id(0) + q_offset)
        k_at = k_ptr + (batch * keys + key)[None, :] * WIDTH + dims[:, None]
        k = tl.load(k_at, mask=valid[None, :] & (dims < WIDTH)[:, None], other=0.0)
        dots = dot(q, k, UP)
        if RELU:
            dots = tl.maximum(dots, 0.0)
        logits = tl.where(valid, tl.sum(dots * w[:, None], 0), float("-inf"))
        tl.store(out_ptr + line * slots + slot, logits, mask=slot < slots)


@triton.jit
def selected_logits_bwd_kernel(
    q_ptr,
    k_ptr,
    w_ptr,
    index_ptr,
    grad_ptr,
    dq_ptr,
    dk_ptr,
    dw_ptr,
    queries,
    keys,
    slots,
    q_offset,
    HEADS: tl.constexpr,
    HEADS_P: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_P: tl.constexpr,
    RELU: tl.constexpr,
    UP: tl.constexpr,
    BK: tl.constexpr,
):
    """dq, dw in registers; dk (fp32) by relaxed atomics, or not at all here. Grid (T, B)."""
    batch = tl.program_id(1).to(tl.int64)
    line = batch * queries + tl.program_id(0)
    heads, dims = tl.arange(0, HEADS_P), tl.arange(0, WIDTH_P)
    q_mask = (heads < HEADS)[:, None] & (dims < WIDTH)[None, :]
    q_offsets = (line * HEADS + heads)[:, None] * WIDTH + dims[None, :]
    q = tl.load(q_ptr + q_offsets, mask=q_mask, other=0.0)
    w = tl.load(w_ptr + line * HEADS + heads, mask=heads < HEADS, other=0.0).to(tl.float32)
    dq = tl.zeros([HEADS_P, WIDTH_P], tl.float32)
    dw = tl.zeros([HEADS_P], tl.float32)
    for start in range(0, slots, BK):
        slot = start + tl.arange(0, BK)
        key = tl.load(index_ptr + line * slots + slot, mask=slot < slots, other=-1)
        valid = (key >= 0) & (key < keys) & (key <= tl.program_id(0) + q_offset)
        k_offsets = (batch * keys + key)[:, None] * WIDTH + dims[None, :]
        k_mask = valid[:, None] & (dims < WIDTH)[None, :]
        k = tl.load(k_ptr + k_offsets, mask=k_mask, other=0.0)
        g = tl.load(grad_ptr + line * slots + slot, mask=valid, other=0.0).to(tl.float32)
        dots = dot(q, tl.trans(k), UP)
        active = tl.maximum(dots, 0.0) if RELU else dots
        dw += tl.sum(active * g[None, :], 1)
        per_head = g[None, :] * w[:, None]
        if RELU:
            per_head = tl.where(dots > 0.0, per_head, 0.0)
        dq += dot(per_head.to(k.dtype), k, UP)
        dk = dot(tl.trans(per_head).to(q.dtype), q, UP)
        tl.atomic_add(dk_ptr + k_offsets, dk, mask=k_mask, sem="relaxed")
    tl.store(dq_ptr + q_offsets, dq, mask=q_mask)
    tl.store(dw_ptr + line * HEADS + heads, dw, mask=heads < HEADS)
