# mypy: disable-error-code="import-untyped,untyped-decorator,no-untyped-def"
"""Gather kept rows into packed storage, and attend over packed rows, in Triton.

Twins: :func:`nightlab.kernels.kv.compact.gather_rows` and
:func:`nightlab.kernels.kv.compact.compact_attention` (for one query per sequence).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from nightlab.kernels.kv.compact import KVCompact, common_length
from nightlab.kernels.kv.score_triton import block_keys

BLOCK_R = 16
"""Rows per program of the gather; with more, unaligned tensors spill."""


@triton.jit
def gather_kernel(
    k_ptr, v_ptr, index_ptr, start_ptr, k_out_ptr, v_out_ptr, pos_ptr, T,
    d: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid (B * G, blocks of the longest segment): copies rows and their positions."""
    segment = tl.program_id(0)
    first = tl.load(start_ptr + segment)
    last = tl.load(start_ptr + segment + 1)
    r = first + tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    dim = tl.arange(0, BLOCK_D)
    at = tl.load(index_ptr + r, mask=r < last, other=0)
    mask = (r[:, None] < last) & (dim[None, :] < d)
    source = (segment.to(tl.int64) * T + at[:, None]) * d + dim[None, :]
    target = r[:, None].to(tl.int64) * d + dim[None, :]
    tl.store(k_out_ptr + target, tl.load(k_ptr + source, mask=mask), mask=mask)
    tl.store(v_out_ptr + target, tl.load(v_ptr + source, mask=mask), mask=mask)
    tl.store(pos_ptr + r, at.to(tl.int32), mask=r < last)


def gather_rows(k_BGTd: Tensor, v_BGTd: Tensor, index_R: Tensor, lengths_BG: Tensor) -> KVCompact:
    """See the twin."""
    B, G, T, d = k_BGTd.shape
    k, v = k_BGTd.contiguous(), v_BGTd.contiguous()
    rows = index_R.shape[0]
    k_out, v_out = k.new_empty(rows, d), v.new_empty(rows, d)
    pos = torch.empty(rows, dtype=torch.int32, device=k.device)
    kept = KVCompact(k_out, v_out, lengths_BG, pos, common_length(lengths_BG))
    longest = kept.even if kept.even is not None else int(lengths_BG.max())
    if longest > 0:
        gather_kernel[(B * G, triton.cdiv(longest, BLOCK_R))](
            k, v, index_R, kept.starts(), k_out, v_out, pos, T,
            d=d, BLOCK_R=BLOCK_R, BLOCK_D=max(16, triton.next_power_of_2(d)),
        )  # fmt: skip
    return kept


@triton.jit
def _fold(q, k, v, real, top, total, out, scale):
    """One block of keys into a running softmax: (top, total, out)."""
    z = tl.dot(q, tl.trans(k), input_precision="tf32x3") * scale
    z = tl.where(real[None, :], z, -1e30)
    new = tl.maximum(top, tl.max(z, 1))
    p = tl.where(real[None, :], tl.exp(z - new[:, None]), 0.0)
    keep = tl.exp(top - new)
    out = out * keep[:, None] + tl.dot(p.to(v.dtype), v, input_precision="tf32x3")
    return new, total * keep + tl.sum(p, 1), out


@triton.jit
def decode_kernel(
    q_ptr, k_ptr, v_ptr, start_ptr, tail_k_ptr, tail_v_ptr, out_ptr, t_tail, tail_stride, scale,
    group: tl.constexpr, d: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid (B * G,): the group's queries over the segment's packed rows, then over its tail."""
    segment = tl.program_id(0)
    first = tl.load(start_ptr + segment)
    last = tl.load(start_ptr + segment + 1)
    head = tl.arange(0, BLOCK_M)
    dim = tl.arange(0, BLOCK_D)
    col = tl.arange(0, BLOCK_T)
    q_at = (segment * group + head[:, None]).to(tl.int64) * d + dim[None, :]
    q_mask = (head[:, None] < group) & (dim[None, :] < d)
    q = tl.load(q_ptr + q_at, mask=q_mask, other=0.0)
    top = tl.full((BLOCK_M,), -1e30, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    out = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in range(first, last, BLOCK_T):
        r = start + col
        at = r[:, None].to(tl.int64) * d + dim[None, :]
        mask = (r[:, None] < last) & (dim[None, :] < d)
        k = tl.load(k_ptr + at, mask=mask, other=0.0)
        v = tl.load(v_ptr + at, mask=mask, other=0.0)
        top, total, out = _fold(q, k, v, r < last, top, total, out, scale)
    for start in range(0, t_tail, BLOCK_T):
        r = start + col
        at = segment.to(tl.int64) * tail_stride + r[:, None] * d + dim[None, :]
        mask = (r[:, None] < t_tail) & (dim[None, :] < d)
        k = tl.load(tail_k_ptr + at, mask=mask, other=0.0)
        v = tl.load(tail_v_ptr + at, mask=mask, other=0.0)
        top, total, out = _fold(q, k, v, r < t_tail, top, total, out, scale)
    result = out / total[:, None]
    tl.store(out_ptr + q_at, result.to(out_ptr.dtype.element_ty), mask=q_mask)


def decode_attention(
    q_BH1d: Tensor, kept: KVCompact, tail_k_BGtd: Tensor, tail_v_BGtd: Tensor
) -> Tensor:
    """One new token per sequence over packed rows and tail, heads of any length: [B, H, 1, d].

    The tail may be a view of a longer buffer; it is read in place.
    """
    B, H, _, d = q_BH1d.shape
    G, t = tail_k_BGtd.shape[1:3]
    if tail_k_BGtd.stride() != tail_v_BGtd.stride() or tail_k_BGtd.stride()[2:] != (d, 1):
        tail_k_BGtd, tail_v_BGtd = tail_k_BGtd.contiguous(), tail_v_BGtd.contiguous()
    q = q_BH1d.contiguous()
    out = torch.empty_like(q)
    decode_kernel[(B * G,)](
        q, kept.k, kept.v, kept.starts(), tail_k_BGtd, tail_v_BGtd, out,
        t, tail_k_BGtd.stride(1), d**-0.5,
        group=H // G, d=d, BLOCK_M=max(16, triton.next_power_of_2(H // G)),
        BLOCK_T=block_keys(q.dtype), BLOCK_D=max(16, triton.next_power_of_2(d)),
    )  # fmt: skip
    return out
