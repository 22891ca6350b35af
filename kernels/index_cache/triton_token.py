"""Triton, token sets: attention forward, backward (atomics, or by the inverse map), and target.

One program is one query of one KV head: its query heads, padded to 16, share every gathered row.
q [B, H, T, D], k [B, N, S, D], v [B, N, S, Dv], index [B, T, K], all contiguous; lse and delta are
fp32 [B, H, T]. Base-2 exponentials inside, natural logarithms outside.
"""

# The kernel language is outside the type system of Python:
# mypy: ignore-errors

import triton
import triton.language as tl

from nightlab.kernels.index_cache.triton_indexer import dot


@triton.jit
def token_forward_kernel(
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
    KV: tl.constexpr,
    G: tl.constexpr,
    G_P: tl.constexpr,
    D: tl.constexpr,
    D_P: tl.constexpr,
    DV: tl.constexpr,
    DV_P: tl.constexpr,
    UP: tl.constexpr,
    BK: tl.constexpr,
):
    """Grid (T, B * N)."""
    query, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    group, dims, dims_v = tl.arange(0, G_P), tl.arange(0, D_P), tl.arange(0, DV_P)
    line = (pair * G + group) * queries + query
    q_mask = (group < G)[:, None] & (dims < D)[None, :]
    q = tl.load(q_ptr + line[:, None] * D + dims[None, :], mask=q_mask, other=0.0)
    top = tl.full([G_P], -1e30, tl.float32)
    total = tl.zeros([G_P], tl.float32)
    acc = tl.zeros([G_P, DV_P], tl.float32)
    index = index_ptr + ((pair // KV) * queries + query) * slots
    for start in range(0, slots, BK):
        slot = start + tl.arange(0, BK)
        key = tl.load(index + slot, mask=slot < slots, other=-1)
        valid = (key >= 0) & (key < keys) & (key <= query + q_offset)
        row = pair * keys + key
        k_mask = valid[None, :] & (dims < D)[:, None]
        k = tl.load(k_ptr + row[None, :] * D + dims[:, None], mask=k_mask, other=0.0)
        s = tl.where(valid[None, :], dot(q, k, UP) * (scale * 1.4426950408889634), -1e30)
        new_top = tl.maximum(top, tl.max(s, 1))
        p = tl.where(valid[None, :], tl.exp2(s - new_top[:, None]), 0.0)
        shrink = tl.exp2(top - new_top)
        v_mask = valid[:, None] & (dims_v < DV)[None, :]
        v = tl.load(v_ptr + row[:, None] * DV + dims_v[None, :], mask=v_mask, other=0.0)
        acc = acc * shrink[:, None] + dot(p.to(v.dtype), v, UP)
        total = total * shrink + tl.sum(p, 1)
        top = new_top
    empty = total == 0.0
    acc = acc / tl.where(empty, 1.0, total)[:, None]
    lse = (top + tl.log2(tl.where(empty, 1.0, total))) * 0.6931471805599453
    out_mask = (group < G)[:, None] & (dims_v < DV)[None, :]
    tl.store(out_ptr + line[:, None] * DV + dims_v[None, :], acc, mask=out_mask)
    tl.store(lse_ptr + line, tl.where(empty, float("inf"), lse), mask=group < G)


@triton.jit
def token_backward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    index_ptr,
    do_ptr,
    lse_ptr,
    delta_ptr,
    dq_ptr,
    dk_ptr,
    dv_ptr,
    queries,
    keys,
    slots,
    q_offset,
    scale,
    KV: tl.constexpr,
    G: tl.constexpr,
    G_P: tl.constexpr,
    D: tl.constexpr,
    D_P: tl.constexpr,
    DV: tl.constexpr,
    DV_P: tl.constexpr,
    UP: tl.constexpr,
    BK: tl.constexpr,
    ATOMIC: tl.constexpr,
):
    """dq, and with ATOMIC dk and dv (fp32) by relaxed atomics. Grid (T, B * N)."""
    query, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    group, dims, dims_v = tl.arange(0, G_P), tl.arange(0, D_P), tl.arange(0, DV_P)
    line = (pair * G + group) * queries + query
    real = group < G
    q_mask = real[:, None] & (dims < D)[None, :]
    do_mask = real[:, None] & (dims_v < DV)[None, :]
    q = tl.load(q_ptr + line[:, None] * D + dims[None, :], mask=q_mask, other=0.0)
    do = tl.load(do_ptr + line[:, None] * DV + dims_v[None, :], mask=do_mask, other=0.0)
    lse = tl.load(lse_ptr + line, mask=real, other=float("inf")) * 1.4426950408889634
    delta = tl.load(delta_ptr + line, mask=real, other=0.0)
    dq = tl.zeros([G_P, D_P], tl.float32)
    index = index_ptr + ((pair // KV) * queries + query) * slots
    for start in range(0, slots, BK):
        slot = start + tl.arange(0, BK)
        key = tl.load(index + slot, mask=slot < slots, other=-1)
        valid = (key >= 0) & (key < keys) & (key <= query + q_offset)
        row = pair * keys + key
        k_at = row[:, None] * D + dims[None, :]
        v_at = row[:, None] * DV + dims_v[None, :]
        k_mask = valid[:, None] & (dims < D)[None, :]
        v_mask = valid[:, None] & (dims_v < DV)[None, :]
        k = tl.load(k_ptr + k_at, mask=k_mask, other=0.0)
        v = tl.load(v_ptr + v_at, mask=v_mask, other=0.0)
        s = dot(q, tl.trans(k), UP) * (scale * 1.4426950408889634)
        p = tl.where(valid[None, :], tl.exp2(s - lse[:, None]), 0.0)
        ds = p * (dot(do, tl.trans(v), UP) - delta[:, None])
        dq += dot(ds.to(k.dtype), k, UP)
        if ATOMIC:
            dv = dot(tl.trans(p).to(do.dtype), do, UP)
            tl.atomic_add(dv_ptr + v_at, dv, mask=v_mask, sem="relaxed")
            dk = dot(tl.trans(ds).to(q.dtype), q, UP) * scale
            tl.atomic_add(dk_ptr + k_at, dk, mask=k_mask, sem="relaxed")
    tl.store(dq_ptr + line[:, None] * D + dims[None, :], dq * scale, mask=q_mask)


@triton.jit
def token_dkv_kernel(
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
    scale,
    KV: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    D_P: tl.constexpr,
    DV: tl.constexpr,
    DV_P: tl.constexpr,
    BT: tl.constexpr,
):
    """dk, dv of one key from the queries that selected it, in a fixed order. Grid (S, B * N)."""
    key, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    dims, dims_v = tl.arange(0, D_P), tl.arange(0, DV_P)
    row = pair * keys + key
    k = tl.load(k_ptr + row * D + dims, mask=dims < D, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + row * DV + dims_v, mask=dims_v < DV, other=0.0).to(tl.float32)
    dk = tl.zeros([D_P], tl.float32)
    dv = tl.zeros([DV_P], tl.float32)
    entry = (pair // KV) * keys + key
    first, last = tl.load(offsets_ptr + entry), tl.load(offsets_ptr + entry + 1)
    for start in range(first, last, BT):
        at = start + tl.arange(0, BT)
        query = tl.load(rows_ptr + at, mask=at < last, other=0)
        for member in range(G):
            line = (pair * G + member) * queries + query
            q_mask = (at < last)[:, None] & (dims < D)[None, :]
            do_mask = (at < last)[:, None] & (dims_v < DV)[None, :]
            q = tl.load(q_ptr + line[:, None] * D + dims[None, :], mask=q_mask, other=0.0)
            do = tl.load(do_ptr + line[:, None] * DV + dims_v[None, :], mask=do_mask, other=0.0)
            q, do = q.to(tl.float32), do.to(tl.float32)
            lse = tl.load(lse_ptr + line, mask=at < last, other=float("inf"))
            delta = tl.load(delta_ptr + line, mask=at < last, other=0.0)
            p = tl.exp2((tl.sum(q * k[None, :], 1) * scale - lse) * 1.4426950408889634)
            ds = p * (tl.sum(do * v[None, :], 1) - delta)
            dk += tl.sum(ds[:, None] * q, 0) * scale
            dv += tl.sum(p[:, None] * do, 0)
    tl.store(dk_ptr + row * D + dims, dk, mask=dims < D)
    tl.store(dv_ptr + row * DV + dims_v, dv, mask=dims_v < DV)


@triton.jit
def token_target_kernel(
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
    KV: tl.constexpr,
    G: tl.constexpr,
    G_P: tl.constexpr,
    D: tl.constexpr,
    D_P: tl.constexpr,
    UP: tl.constexpr,
    BK: tl.constexpr,
):
    """target fp32 [B, T, K] = attention to each slot, summed over heads. Grid (T, B, K tiles)."""
    query, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    group, dims = tl.arange(0, G_P), tl.arange(0, D_P)
    slot = tl.program_id(2) * BK + tl.arange(0, BK)
    at = (batch * queries + query) * slots + slot
    key = tl.load(index_ptr + at, mask=slot < slots, other=-1)
    valid = (key >= 0) & (key < keys) & (key <= query + q_offset)
    total = tl.zeros([BK], tl.float32)
    for head in range(KV):
        pair = batch * KV + head
        line = (pair * G + group) * queries + query
        q_mask = (group < G)[:, None] & (dims < D)[None, :]
        q = tl.load(q_ptr + line[:, None] * D + dims[None, :], mask=q_mask, other=0.0)
        k_at = k_ptr + (pair * keys + key)[None, :] * D + dims[:, None]
        k = tl.load(k_at, mask=valid[None, :] & (dims < D)[:, None], other=0.0)
        lse = tl.load(lse_ptr + line, mask=group < G, other=float("inf"))
        p = tl.exp2((dot(q, k, UP) * scale - lse[:, None]) * 1.4426950408889634)
        total += tl.sum(tl.where(valid[None, :], p, 0.0), 0)
    tl.store(target_ptr + at, total, mask=slot < slots)
