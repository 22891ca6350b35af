"""Triton, block sets: forward, dq, dk and dv over the inverse map without atomics, and target.

One program is one query tile of one head (forward, dq) or one key block of one KV head (dk, dv).
Layouts as in ``triton_token``; index is [B, R, K] of key blocks.
"""

# The kernel language is outside the type system of Python:
# mypy: ignore-errors

import triton
import triton.language as tl

from nightlab.kernels.index_cache.triton_indexer import dot


@triton.jit
def block_forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    index_ptr,
    out_ptr,
    lse_ptr,
    queries,
    keys,
    slots,
    q_offset,
    scale,
    block_q,
    block_k,
    HEADS: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    D_P: tl.constexpr,
    DV: tl.constexpr,
    DV_P: tl.constexpr,
    UP: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
):
    """Grid (R, B * H)."""
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    inner, dims, dims_v = tl.arange(0, BQ), tl.arange(0, D_P), tl.arange(0, DV_P)
    query = tile * block_q + inner
    inside = (inner < block_q) & (query < queries)
    line = head * queries + query
    q_mask = inside[:, None] & (dims < D)[None, :]
    q = tl.load(q_ptr + line[:, None] * D + dims[None, :], mask=q_mask, other=0.0)
    top = tl.full([BQ], -1e30, tl.float32)
    total = tl.zeros([BQ], tl.float32)
    acc = tl.zeros([BQ, DV_P], tl.float32)
    index = index_ptr + ((head // HEADS) * tl.num_programs(0) + tile) * slots
    for slot in range(slots):
        block = tl.load(index + slot)
        key = block * block_k + tl.arange(0, BK)
        real = (tl.arange(0, BK) < tl.where(block >= 0, block_k, 0)) & (key < keys)
        row = (head // G) * keys + key
        k_mask = real[None, :] & (dims < D)[:, None]
        k = tl.load(k_ptr + row[None, :] * D + dims[:, None], mask=k_mask, other=0.0)
        seen = real[None, :] & (key[None, :] <= (query + q_offset)[:, None])
        s = tl.where(seen, dot(q, k, UP) * (scale * 1.4426950408889634), -1e30)
        new_top = tl.maximum(top, tl.max(s, 1))
        p = tl.where(seen, tl.exp2(s - new_top[:, None]), 0.0)
        shrink = tl.exp2(top - new_top)
        v_mask = real[:, None] & (dims_v < DV)[None, :]
        v = tl.load(v_ptr + row[:, None] * DV + dims_v[None, :], mask=v_mask, other=0.0)
        acc = acc * shrink[:, None] + dot(p.to(v.dtype), v, UP)
        total = total * shrink + tl.sum(p, 1)
        top = new_top
    empty = total == 0.0
    acc = acc / tl.where(empty, 1.0, total)[:, None]
    lse = (top + tl.log2(tl.where(empty, 1.0, total))) * 0.6931471805599453
    out_mask = inside[:, None] & (dims_v < DV)[None, :]
    tl.store(out_ptr + line[:, None] * DV + dims_v[None, :], acc, mask=out_mask)
    tl.store(lse_ptr + line, tl.where(empty, float("inf"), lse), mask=inside)


@triton.jit
def block_dq_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    index_ptr,
    do_ptr,
    lse_ptr,
    delta_ptr,
    dq_ptr,
    queries,
    keys,
    slots,
    q_offset,
    scale,
    block_q,
    block_k,
    HEADS: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    D_P: tl.constexpr,
    DV: tl.constexpr,
    DV_P: tl.constexpr,
    UP: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
):
    """Grid (R, B * H)."""
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    inner, dims, dims_v = tl.arange(0, BQ), tl.arange(0, D_P), tl.arange(0, DV_P)
    query = tile * block_q + inner
    inside = (inner < block_q) & (query < queries)
    line = head * queries + query
    q_mask = inside[:, None] & (dims < D)[None, :]
    do_mask = inside[:, None] & (dims_v < DV)[None, :]
    q = tl.load(q_ptr + line[:, None] * D + dims[None, :], mask=q_mask, other=0.0)
    do = tl.load(do_ptr + line[:, None] * DV + dims_v[None, :], mask=do_mask, other=0.0)
    lse = tl.load(lse_ptr + line, mask=inside, other=float("inf")) * 1.4426950408889634
    delta = tl.load(delta_ptr + line, mask=inside, other=0.0)
    dq = tl.zeros([BQ, D_P], tl.float32)
    index = index_ptr + ((head // HEADS) * tl.num_programs(0) + tile) * slots
    for slot in range(slots):
        block = tl.load(index + slot)
        key = block * block_k + tl.arange(0, BK)
        real = (tl.arange(0, BK) < tl.where(block >= 0, block_k, 0)) & (key < keys)
        row = (head // G) * keys + key
        k_mask = real[:, None] & (dims < D)[None, :]
        v_mask = real[:, None] & (dims_v < DV)[None, :]
        k = tl.load(k_ptr + row[:, None] * D + dims[None, :], mask=k_mask, other=0.0)
        v = tl.load(v_ptr + row[:, None] * DV + dims_v[None, :], mask=v_mask, other=0.0)
        s = dot(q, tl.trans(k), UP) * (scale * 1.4426950408889634)
        seen = real[None, :] & (key[None, :] <= (query + q_offset)[:, None])
        p = tl.where(seen, tl.exp2(s - lse[:, None]), 0.0)
        ds = p * (dot(do, tl.trans(v), UP) - delta[:, None])
        dq += dot(ds.to(k.dtype), k, UP)
    tl.store(dq_ptr + line[:, None] * D + dims[None, :], dq * scale, mask=q_mask)


@triton.jit
def block_dkv_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    offsets_ptr,
    rows_ptr,
    do_ptr,
    lse_ptr,
    delta_ptr,
    dk_ptr,
    dv_ptr,
    queries,
    keys,
    q_offset,
    scale,
    block_q,
    block_k,
    KV: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    D_P: tl.constexpr,
    DV: tl.constexpr,
    DV_P: tl.constexpr,
    UP: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
):
    """Every tile that selected the block, in order, over its group's heads. Grid (nK, B * N)."""
    block, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    inner, dims, dims_v = tl.arange(0, BQ), tl.arange(0, D_P), tl.arange(0, DV_P)
    key = block * block_k + tl.arange(0, BK)
    real = (tl.arange(0, BK) < block_k) & (key < keys)
    row = pair * keys + key
    k_mask = real[:, None] & (dims < D)[None, :]
    v_mask = real[:, None] & (dims_v < DV)[None, :]
    k = tl.load(k_ptr + row[:, None] * D + dims[None, :], mask=k_mask, other=0.0)
    v = tl.load(v_ptr + row[:, None] * DV + dims_v[None, :], mask=v_mask, other=0.0)
    dk = tl.zeros([BK, D_P], tl.float32)
    dv = tl.zeros([BK, DV_P], tl.float32)
    entry = (pair // KV) * tl.num_programs(0) + block
    first, last = tl.load(offsets_ptr + entry), tl.load(offsets_ptr + entry + 1)
    for at in range(first * G, last * G):
        query = tl.load(rows_ptr + at // G) * block_q + inner
        inside = (inner < block_q) & (query < queries)
        line = (pair * G + at % G) * queries + query
        q_mask = inside[:, None] & (dims < D)[None, :]
        do_mask = inside[:, None] & (dims_v < DV)[None, :]
        q = tl.load(q_ptr + line[:, None] * D + dims[None, :], mask=q_mask, other=0.0)
        do = tl.load(do_ptr + line[:, None] * DV + dims_v[None, :], mask=do_mask, other=0.0)
        lse = tl.load(lse_ptr + line, mask=inside, other=float("inf")) * 1.4426950408889634
        delta = tl.load(delta_ptr + line, mask=inside, other=0.0)
        s = dot(q, tl.trans(k), UP) * (scale * 1.4426950408889634)
        seen = real[None, :] & (key[None, :] <= (query + q_offset)[:, None])
        p = tl.where(seen, tl.exp2(s - lse[:, None]), 0.0)
        dv += dot(tl.trans(p).to(do.dtype), do, UP)
        ds = p * (dot(do, tl.trans(v), UP) - delta[:, None])
        dk += dot(tl.trans(ds).to(q.dtype), q, UP)
    tl.store(dk_ptr + row[:, None] * D + dims[None, :], dk * scale, mask=k_mask)
    tl.store(dv_ptr + row[:, None] * DV + dims_v[None, :], dv, mask=v_mask)


@triton.jit
def block_target_kernel(
    q_ptr,
    k_ptr,
    index_ptr,
    lse_ptr,
    target_ptr,
    queries,
    keys,
    slots,
    q_offset,
    scale,
    block_q,
    block_k,
    HEADS: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    D_P: tl.constexpr,
    UP: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
):
    """target fp32 [B, R, K] = attention to each slot over heads and queries. Grid (K, R, B)."""
    slot, tile, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    inner, dims = tl.arange(0, BQ), tl.arange(0, D_P)
    query = tile * block_q + inner
    inside = (inner < block_q) & (query < queries)
    at = (batch * tl.num_programs(1) + tile) * slots + slot
    block = tl.load(index_ptr + at)
    key = block * block_k + tl.arange(0, BK)
    real = (tl.arange(0, BK) < tl.where(block >= 0, block_k, 0)) & (key < keys)
    seen = real[None, :] & (key[None, :] <= (query + q_offset)[:, None])
    total = 0.0
    for member in range(HEADS):
        head = batch * HEADS + member
        line = head * queries + query
        q_mask = inside[:, None] & (dims < D)[None, :]
        q = tl.load(q_ptr + line[:, None] * D + dims[None, :], mask=q_mask, other=0.0)
        k_at = k_ptr + ((head // G) * keys + key)[None, :] * D + dims[:, None]
        k = tl.load(k_at, mask=real[None, :] & (dims < D)[:, None], other=0.0)
        lse = tl.load(lse_ptr + line, mask=inside, other=float("inf"))
        p = tl.exp2((dot(q, k, UP) * scale - lse[:, None]) * 1.4426950408889634)
        total += tl.sum(tl.sum(tl.where(seen, p, 0.0), 1), 0)
    tl.store(target_ptr + at, total)
