"""Triton: one query against its selected keys, the K slots split over programs (flash-decoding)."""

# The kernel language is outside the type system of Python:
# mypy: ignore-errors

import triton
import triton.language as tl

from nightlab.kernels.index_cache.triton_indexer import dot


@triton.jit
def decode_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    index_ptr,
    out_ptr,
    lse_ptr,
    keys,
    slots,
    q_offset,
    scale,
    part,
    block_k,
    k_batch,
    k_head,
    v_batch,
    v_head,
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
    """out fp32 [P, B, H, Dv] and lse [P, B, H], -inf where a part is empty. Grid (P, B * N).

    q [B, H, D] is contiguous; k and v have batch and head strides, so that a cache with room to
    grow needs no copy. Slot f stands for key ``index[f // block_k] * block_k + f % block_k``.
    """
    split, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, kv = pair // KV, pair % KV
    group, dims, dims_v = tl.arange(0, G_P), tl.arange(0, D_P), tl.arange(0, DV_P)
    line = pair * G + group
    q_mask = (group < G)[:, None] & (dims < D)[None, :]
    q = tl.load(q_ptr + line[:, None] * D + dims[None, :], mask=q_mask, other=0.0)
    top = tl.full([G_P], -1e30, tl.float32)
    total = tl.zeros([G_P], tl.float32)
    acc = tl.zeros([G_P, DV_P], tl.float32)
    stop = tl.minimum(split * part + part, slots * block_k)
    for start in range(split * part, stop, BK):
        at = start + tl.arange(0, BK)
        block = tl.load(index_ptr + batch * slots + at // block_k, mask=at < stop, other=-1)
        key = block * block_k + at % block_k
        valid = (block >= 0) & (key < keys) & (key <= q_offset)
        k_at = k_ptr + batch * k_batch + kv * k_head + key[None, :].to(tl.int64) * D + dims[:, None]
        k = tl.load(k_at, mask=valid[None, :] & (dims < D)[:, None], other=0.0)
        s = tl.where(valid[None, :], dot(q, k, UP) * (scale * 1.4426950408889634), -1e30)
        new_top = tl.maximum(top, tl.max(s, 1))
        p = tl.where(valid[None, :], tl.exp2(s - new_top[:, None]), 0.0)
        shrink = tl.exp2(top - new_top)
        v_at = v_ptr + batch * v_batch + kv * v_head + key[:, None].to(tl.int64) * DV + dims_v
        v = tl.load(v_at, mask=valid[:, None] & (dims_v < DV)[None, :], other=0.0)
        acc = acc * shrink[:, None] + dot(p.to(v.dtype), v, UP)
        total = total * shrink + tl.sum(p, 1)
        top = new_top
    empty = total == 0.0
    acc = acc / tl.where(empty, 1.0, total)[:, None]
    lse = (top + tl.log2(tl.where(empty, 1.0, total))) * 0.6931471805599453
    place = split * tl.num_programs(1) * G + line
    out_mask = (group < G)[:, None] & (dims_v < DV)[None, :]
    tl.store(out_ptr + place[:, None] * DV + dims_v[None, :], acc, mask=out_mask)
    tl.store(lse_ptr + place, tl.where(empty, float("-inf"), lse), mask=group < G)
