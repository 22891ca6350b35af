"""The specification: every op in a few lines of plain PyTorch, differentiable by autograd.

Slow and O(T S) in memory on purpose. B batch, H query heads, N key/value heads, T queries, S keys,
D width, I index heads, R rows, K slots.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nightlab.kernels.index_cache.index_set import IndexSet


class Attended(NamedTuple):
    """What an attention over an index set gives."""

    out: Tensor
    """[B, H, T, Dv]; 0 where a query has no valid key."""
    lse: Tensor | None
    """[B, H, T] natural log-sum-exp of the scaled scores, +inf where there is no valid key."""
    target: Tensor | None
    """[B, R, K] mean attention over heads and over a tile's queries; a row sums to 1, or is 0."""


def attention(
    q_BHTD: Tensor, k_BNSD: Tensor, v_BNSD: Tensor, index: IndexSet, scale: float
) -> Attended:
    """Masked softmax attention over the selected keys, with its log-sum-exp and target."""
    groups = q_BHTD.shape[1] // k_BNSD.shape[1]
    k_BHSD = k_BNSD.repeat_interleave(groups, 1)
    v_BHSD = v_BNSD.repeat_interleave(groups, 1)
    seen = index.mask[:, None]
    scores = (q_BHTD @ k_BHSD.mT * scale).masked_fill(~seen, float("-inf"))
    lse = scores.logsumexp(-1)
    lse = torch.where(seen.any(-1), lse, float("inf"))
    probs = (scores - lse[..., None]).exp()
    return Attended(probs @ v_BHSD, lse, pool_target(probs.mean(1), index))


def pool_target(probs_BTS: Tensor, index: IndexSet) -> Tensor:
    """Head-mean attention [B, T, S] summed over each slot's keys and averaged over each tile."""
    batch, queries, keys = probs_BTS.shape
    rows, blocks = index.indices.shape[1], index.key_blocks
    pad = (0, blocks * index.block_k - keys, 0, rows * index.block_q - queries)
    tiles = torch.nn.functional.pad(probs_BTS.detach(), pad)
    tiles = tiles.view(batch, rows, index.block_q, blocks, index.block_k).sum((2, 4))
    slots = tiles.gather(2, index.safe_indices) * index.valid
    return slots / slots.sum(-1, keepdim=True).clamp_min(1e-10)


def indexer_logits(
    q_BTID: Tensor, k_BSD: Tensor, w_BTI: Tensor, q_offset: int = 0, relu: bool = True
) -> Tensor:
    """I[t,s] = sum_j w[t,j] relu(q[t,j] . k[s]) as [B, T, S], -inf above the diagonal (1.1)."""
    dots = torch.einsum("btid,bsd->btis", q_BTID, k_BSD)
    logits = torch.einsum("btis,bti->bts", dots.relu() if relu else dots, w_BTI)
    query = torch.arange(q_BTID.shape[1], device=logits.device)[:, None] + q_offset
    future = torch.arange(k_BSD.shape[1], device=logits.device) > query
    return logits.masked_fill(future, float("-inf"))


def topk_select(logits_BTS: Tensor, topk: int) -> Tensor:
    """int32 [B, T, k] highest logits, ties to the lowest index; ascending, then -1; never -inf."""
    topk = min(topk, logits_BTS.shape[-1])
    order = logits_BTS.sort(dim=-1, descending=True, stable=True)
    missing = order.values[..., :topk] == float("-inf")
    chosen = order.indices[..., :topk].masked_fill(missing, logits_BTS.shape[-1]).sort(-1).values
    return chosen.masked_fill(chosen == logits_BTS.shape[-1], -1).int()


def selected_logits(
    q_BTID: Tensor, k_BSD: Tensor, w_BTI: Tensor, index: IndexSet, relu: bool = True
) -> Tensor:
    """Index logits [B, T, K] of a token set's slots, with gradient; -inf where invalid."""
    logits = indexer_logits(q_BTID, k_BSD, w_BTI, index.q_offset, relu)
    return logits.gather(2, index.safe_indices).masked_fill(~index.valid, float("-inf"))


def kl_loss(logits_BRK: Tensor, target_BRK: Tensor) -> Tensor:
    """Mean over rows of KL(target || softmax(logits)) on the finite slots (1.3)."""
    finite = logits_BRK.isfinite() & (target_BRK.sum(-1, keepdim=True) > 0)
    counted = finite.any(-1)
    logits, mask = logits_BRK[counted], finite[counted]
    target = target_BRK[counted].to(logits.dtype) * mask
    target = target / target.sum(-1, keepdim=True)
    log_q = logits.masked_fill(~mask, float("-inf")).log_softmax(-1).masked_fill(~mask, 0.0)
    divergence = (torch.xlogy(target, target) - target * log_q).sum()
    return divergence / max(1, int(counted.sum()))
