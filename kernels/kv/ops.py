"""Which implementation runs: Triton on CUDA tensors, the plain-PyTorch twin everywhere else.

The choice depends on nothing but the tensors; :func:`nightlab.kernels.explain` says what it was.
"""

from typing import Literal

import torch
from torch import Tensor

from nightlab.kernels.choice import record
from nightlab.kernels.kv import compact, scores, selection
from nightlab.kernels.kv.compact import KVCompact
from nightlab.kernels.kv.scores import Group, Over, Reduction
from nightlab.kernels.kv.selection import Kept

Path = Literal["triton", "reference"]


def path(op: str, tensor: Tensor) -> Path:
    """The implementation that an op on this tensor takes; recorded for ``explain``."""
    chosen: Path = "triton" if tensor.is_cuda else "reference"
    record(f"kv.{op}", chosen, f"tensors are on {tensor.device.type}")
    return chosen


def lookahead_scores(
    q_BHnd: Tensor,
    k_BGTd: Tensor,
    own_BGmd: Tensor,
    *,
    group: Group = "mean",
    over: Over = "mean",
) -> Tensor:
    """[B, G, T]; see :func:`nightlab.kernels.kv.scores.lookahead_scores`. No gradient."""
    if path("lookahead_scores", q_BHnd) == "triton":
        from nightlab.kernels.kv import score_triton

        return score_triton.lookahead_scores(q_BHnd, k_BGTd, own_BGmd, group=group, over=over)
    return scores.lookahead_scores(q_BHnd, k_BGTd, own_BGmd, group=group, over=over)


def scored_attention(
    q_BHnd: Tensor,
    k_BGTd: Tensor,
    v_BGTd: Tensor,
    own_k_BGmd: Tensor,
    own_v_BGmd: Tensor,
    reduction: Reduction,
) -> tuple[Tensor, Tensor]:
    """Scores and output; see :func:`nightlab.kernels.kv.scores.scored_attention`. No gradient.

    On a GPU the score kernel and the plain attention run one after the other.
    """
    if path("scored_attention", q_BHnd) == "triton":
        own = (own_k_BGmd, own_v_BGmd)
        s = lookahead_scores(q_BHnd, k_BGTd, own[0], group=reduction.group, over=reduction.over)
        return s, cached_attention(q_BHnd, KVCompact.dense(k_BGTd, v_BGTd), *own)
    return scores.scored_attention(q_BHnd, k_BGTd, v_BGTd, own_k_BGmd, own_v_BGmd, reduction)


def select_rows(
    s_BGT: Tensor, lengths_BG: Tensor, *, sinks: int = 0, recent: int = 0, pool: int = 1
) -> Kept:
    """See :func:`nightlab.kernels.kv.selection.select_rows`."""
    if path("select_rows", s_BGT) == "triton":
        from nightlab.kernels.kv import select_triton

        return select_triton.select_rows(s_BGT, lengths_BG, sinks=sinks, recent=recent, pool=pool)
    return selection.select_rows(s_BGT, lengths_BG, sinks=sinks, recent=recent, pool=pool)


def gather_rows(k_BGTd: Tensor, v_BGTd: Tensor, index_R: Tensor, lengths_BG: Tensor) -> KVCompact:
    """See :func:`nightlab.kernels.kv.compact.gather_rows`."""
    if path("gather_rows", k_BGTd) == "triton":
        from nightlab.kernels.kv import compact_triton

        return compact_triton.gather_rows(k_BGTd, v_BGTd, index_R, lengths_BG)
    return compact.gather_rows(k_BGTd, v_BGTd, index_R, lengths_BG)


def cached_attention(
    q_BHNd: Tensor, kept: KVCompact, tail_k_BGtd: Tensor, tail_v_BGtd: Tensor
) -> Tensor:
    """See :func:`nightlab.kernels.kv.compact.compact_attention`; the kernel does one new token."""
    if q_BHNd.shape[2] == 1 and not torch.is_grad_enabled():
        if path("cached_attention", q_BHNd) == "triton":
            from nightlab.kernels.kv import compact_triton

            return compact_triton.decode_attention(q_BHNd, kept, tail_k_BGtd, tail_v_BGtd)
    else:
        record("kv.cached_attention", "reference", "several new tokens, or a gradient is needed")
    return compact.compact_attention(q_BHNd, kept, tail_k_BGtd, tail_v_BGtd)
