"""One new token against a long cache: read K rows instead of S (reference 5.2, kernel 6)."""

from typing import Literal

import torch
from torch import Tensor

from nightlab.kernels.choice import record
from nightlab.kernels.index_cache import triton_path
from nightlab.kernels.index_cache.index_set import IndexSet

DecodePath = Literal["auto", "reference", "gather", "triton"]


def sparse_attention_decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: IndexSet,
    scale: float | None = None,
    splits: int = 8,
    path: DecodePath = "auto",
) -> Tensor:
    """out [B, H, 1, Dv] of q [B, H, 1, D] over the selected keys of k [B, N, S, D] and v.

    No gradient. ``splits`` parts of the K slots are reduced on their own and merged by their
    log-sum-exp (reference and triton; one pass is faster on a CPU). ValueError unless T = 1.
    """
    if q.shape[2] != 1 or index.queries != 1:
        raise ValueError(f"decode takes one query, got {q.shape[2]} and {index.queries} indexed")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    use_triton, reason = triton_path.usable(q, path)
    if path in ("reference", "gather"):
        reason = "asked for"
    chosen = "triton" if use_triton else "reference" if path == "reference" else "gather"
    record("index_cache.sparse_attention_decode", chosen, reason)
    with torch.no_grad():
        if chosen == "triton":
            return triton_path.decode(q, k, v, index, scale, splits)
        parts = splits if chosen == "reference" else 1
        return _torch_decode(q, k, v, index, scale, parts)


def _torch_decode(
    q: Tensor, k: Tensor, v: Tensor, index: IndexSet, scale: float, splits: int
) -> Tensor:
    """Gather each sequence's selected rows for all KV heads at once, reduce in ``splits`` parts."""
    batch, heads, _, _ = q.shape
    groups = heads // k.shape[1]
    lines = index.safe_indices[:, 0, :, None] * index.block_k
    lines = (lines + torch.arange(index.block_k, device=q.device)).clamp_(max=index.keys - 1)
    rows = []
    for b in range(batch):
        hidden, where = index.hidden[b, 0, 0], lines[b].flatten()
        query = q[b, :, 0].view(-1, groups, q.shape[-1]) * scale
        outs, lses = [], []
        for part in range(splits):
            step = -(-where.numel() // splits)
            piece = slice(part * step, (part + 1) * step)
            scores = query @ k[b].index_select(1, where[piece]).mT
            scores.masked_fill_(hidden[piece], float("-inf"))
            lse = scores.logsumexp(-1)
            safe = lse.masked_fill(lse == float("-inf"), float("inf"))
            outs.append((scores - safe[..., None]).exp_() @ v[b].index_select(1, where[piece]))
            lses.append(lse)
        rows.append(outs[0] if splits == 1 else merge(torch.stack(outs), torch.stack(lses)))
    return torch.stack(rows).view(batch, heads, 1, -1)


def merge(outs_P: Tensor, lses_P: Tensor) -> Tensor:
    """One attention output from P parts [P, ..., Dv] and their log-sum-exps [P, ...].

    A part without a valid key has log-sum-exp -inf and counts for nothing; no part valid gives 0.
    """
    top = lses_P.amax(0).clamp_min(-1e30)
    share = (lses_P - top).exp()
    total = share.sum(0).clamp_min(1e-30)
    return (outs_P * (share / total)[..., None]).sum(0)
