# mypy: disable-error-code="import-untyped,untyped-decorator,no-untyped-def"
"""Lookahead scores in Triton: two passes over the keys, and no n x T matrix in memory.

Pass 1 gives the log-sum-exp of each query's row over prompt and own keys, split over T so that
few heads still fill a GPU. Pass 2 forms ``exp(z - lse)`` per block of keys and reduces it over
queries and the head group in registers. float32 accumulation. Twin of
:func:`nightlab.kernels.kv.scores.lookahead_scores`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from nightlab.kernels.kv.scores import Group, Over, reduce_heads

SPLIT = 1024
"""Keys per program of pass 1."""
ROWS = 64
"""Queries per launch; with :func:`block_keys`, what fits in registers without spills."""
CODE = {"mean": 0, "max": 1, "sum": 2}


def block_keys(dtype: torch.dtype) -> int:
    """Keys per step: float32 needs three tensor-core products where bfloat16 needs one."""
    return 16 if dtype.itemsize >= 4 else 32


@triton.jit
def _logits(q, k, scale):
    return tl.dot(q, tl.trans(k), input_precision="tf32x3") * scale


@triton.jit
def row_lse_kernel(
    q_ptr, k_ptr, own_ptr, lse_ptr, n, m, T, splits, heads, group, scale,
    d: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid (B * H, splits): lse [B * H, splits, n] of parts of rows; part 0 has the own keys."""
    bh, split = tl.program_id(0), tl.program_id(1)
    bg = (bh // heads) * (heads // group) + (bh % heads) // group
    row = tl.arange(0, BLOCK_N)
    col = tl.arange(0, BLOCK_T)
    dim = tl.arange(0, BLOCK_D)
    q_at = q_ptr + (bh.to(tl.int64) * n + row[:, None]) * d + dim[None, :]
    q = tl.load(q_at, mask=(row[:, None] < n) & (dim[None, :] < d), other=0.0)
    top = tl.full((BLOCK_N,), -1e30, tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    k_base = k_ptr + bg.to(tl.int64) * T * d
    end = tl.minimum(T, (split + 1) * SPLIT)
    for start in range(split * SPLIT, end, BLOCK_T):
        t = start + col
        k_at = k_base + t[:, None].to(tl.int64) * d + dim[None, :]
        k = tl.load(k_at, mask=(t[:, None] < T) & (dim[None, :] < d), other=0.0)
        z = tl.where(t[None, :] < T, _logits(q, k, scale), -1e30)
        new = tl.maximum(top, tl.max(z, 1))
        total = total * tl.exp(top - new) + tl.sum(
            tl.where(t[None, :] < T, tl.exp(z - new[:, None]), 0.0), 1
        )
        top = new
    if split == 0:
        for start in range(0, m, BLOCK_T):
            t = start + col
            k_at = own_ptr + (bg.to(tl.int64) * m + t[:, None]) * d + dim[None, :]
            k = tl.load(k_at, mask=(t[:, None] < m) & (dim[None, :] < d), other=0.0)
            seen = t[None, :] <= row[:, None] + (m - n)
            z = tl.where(seen, _logits(q, k, scale), -1e30)
            new = tl.maximum(top, tl.max(z, 1))
            total = total * tl.exp(top - new) + tl.sum(
                tl.where(seen, tl.exp(z - new[:, None]), 0.0), 1
            )
            top = new
    lse = tl.where(total > 0, top + tl.log(total), -float("inf"))
    tl.store(lse_ptr + (bh * splits + split) * n + row, lse, mask=row < n)


@triton.jit
def column_kernel(
    q_ptr, k_ptr, lse_ptr, out_ptr, n, T, scale,
    group: tl.constexpr, reduce_group: tl.constexpr, reduce_rows: tl.constexpr,
    d: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid (B * G, blocks of T): scores [B * G, T]. Reductions: 0 mean, 1 max, 2 sum."""
    bg = tl.program_id(0)
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    row = tl.arange(0, BLOCK_N)
    dim = tl.arange(0, BLOCK_D)
    k_at = k_ptr + (bg.to(tl.int64) * T + t[:, None]) * d + dim[None, :]
    k = tl.load(k_at, mask=(t[:, None] < T) & (dim[None, :] < d), other=0.0)
    total = tl.zeros((BLOCK_T,), tl.float32)
    for i in range(group):
        bh = bg * group + i
        q_at = q_ptr + (bh.to(tl.int64) * n + row[:, None]) * d + dim[None, :]
        q = tl.load(q_at, mask=(row[:, None] < n) & (dim[None, :] < d), other=0.0)
        lse = tl.load(lse_ptr + bh * n + row, mask=row < n, other=0.0)
        p = tl.exp(_logits(q, k, scale) - lse[:, None])
        p = tl.where(row[:, None] < n, p, 0.0)
        s = tl.max(p, 0) if reduce_rows == 1 else tl.sum(p, 0) / n
        total = tl.maximum(total, s) if reduce_group == 1 else total + s
    if reduce_group == 0:
        total = total / group
    tl.store(out_ptr + bg.to(tl.int64) * T + t, total, mask=t < T)


def lookahead_scores(
    q_BHnd: Tensor,
    k_BGTd: Tensor,
    own_BGmd: Tensor,
    *,
    group: Group = "mean",
    over: Over = "mean",
) -> Tensor:
    """Scores [B, G, T] (float32); the same meaning as the twin.

    More than ``ROWS`` queries are scored in parts; each sees the own keys its queries may see.
    """
    n, m = q_BHnd.shape[2], own_BGmd.shape[2]
    if n > ROWS:
        return _in_parts(q_BHnd, k_BGTd, own_BGmd, group, over)
    (B, H, _, d), (G, T) = q_BHnd.shape, k_BGTd.shape[1:3]
    q, k, own = (x.contiguous() for x in (q_BHnd, k_BGTd, own_BGmd))
    splits = max(1, triton.cdiv(T, SPLIT))
    lse = torch.empty(B * H, splits, n, dtype=torch.float32, device=q.device)
    out = torch.empty(B, G, T, dtype=torch.float32, device=q.device)
    block = block_keys(q.dtype)
    sizes = {
        "d": d,
        "BLOCK_N": max(16, triton.next_power_of_2(n)),
        "BLOCK_T": block,
        "BLOCK_D": max(16, triton.next_power_of_2(d)),
    }
    scale = d**-0.5
    row_lse_kernel[(B * H, splits)](
        q, k, own, lse, n, m, T, splits, H, H // G, scale, SPLIT=SPLIT, **sizes
    )
    if T == 0:
        return out
    whole = torch.logsumexp(lse, dim=1)
    column_kernel[(B * G, triton.cdiv(T, block))](
        q, k, whole, out, n, T, scale,
        group=H // G, reduce_group=CODE[group], reduce_rows=CODE[over], **sizes,
    )  # fmt: skip
    return out


def _in_parts(q: Tensor, k: Tensor, own: Tensor, group: Group, over: Over) -> Tensor:
    n, m, heads = q.shape[2], own.shape[2], q.shape[1]
    # A group maximum of means does not split into parts: keep heads apart, then reduce.
    k_BHTd, own_BHmd = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, own))
    total = torch.zeros(k_BHTd.shape[:3], dtype=torch.float32, device=q.device)
    for start in range(0, n, ROWS):
        end = min(start + ROWS, n)
        seen = own_BHmd[:, :, : m - n + end]
        part = lookahead_scores(q[:, :, start:end], k_BHTd, seen, over=over)
        total = torch.maximum(total, part) if over == "max" else total + part * ((end - start) / n)
    return reduce_heads(total, k.shape[1], group)
