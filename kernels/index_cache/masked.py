"""Dense attention under the selection's mask: the same values, for when gathering does not pay."""

import torch
from torch import Tensor
from torch.nn import functional

from nightlab.kernels.index_cache.index_set import IndexSet
from nightlab.kernels.index_cache.reference import Attended, pool_target

CHUNK = 256
"""Queries whose scores are held at once when the target or the log-sum-exp is wanted."""


def attention(
    q_BHTD: Tensor,
    k_BNSD: Tensor,
    v_BNSD: Tensor,
    index: IndexSet,
    scale: float,
    with_lse: bool = False,
    with_target: bool = False,
) -> Attended:
    """The contract of ``reference.attention``; ``is_causal`` when every causal key is selected."""
    gqa = q_BHTD.shape[1] != k_BNSD.shape[1]
    square = index.everything and index.q_offset == 0 and index.queries == index.keys
    if square:
        out = functional.scaled_dot_product_attention(
            q_BHTD, k_BNSD, v_BNSD, is_causal=True, scale=scale, enable_gqa=gqa
        )
    else:
        some = index.mask.any(-1)
        mask = (index.mask | ~some[..., None])[:, None]
        out = functional.scaled_dot_product_attention(
            q_BHTD, k_BNSD, v_BNSD, attn_mask=mask, scale=scale, enable_gqa=gqa
        )
        out = out * some[:, None, :, None]
    if not (with_lse or with_target):
        return Attended(out, None, None)
    lse, target = _statistics(q_BHTD, k_BNSD, index, scale)
    return Attended(out, lse, target if with_target else None)


@torch.no_grad()
def _statistics(q: Tensor, k: Tensor, index: IndexSet, scale: float) -> tuple[Tensor, Tensor]:
    """Log-sum-exp [B, H, T] and target [B, R, K], holding CHUNK queries' scores at a time."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    lse, mean = [], []
    for start in range(0, q.shape[2], CHUNK):
        part = slice(start, start + CHUNK)
        scores = q[:, :, part] @ k.mT * scale
        scores.masked_fill_(~index.mask[:, None, part], float("-inf"))
        row = scores.logsumexp(-1)
        row.masked_fill_(row == float("-inf"), float("inf"))
        lse.append(row)
        mean.append(scores.sub_(row[..., None]).exp_().mean(1))
    return torch.cat(lse, 2), pool_target(torch.cat(mean, 1), index)
