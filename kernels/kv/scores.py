"""Importance of cached keys as seen by a few queries: the one formula behind most policies.

:func:`lookahead_scores` is the mean (or max) attention that n queries pay to each of T prompt
keys, where the queries also attend, causally, to n' keys of their own. With response queries it
is the ground truth s_GT of LookaheadKV (arXiv 2603.10899, section 3), with lookahead tokens the
predicted score, with the last prompt tokens SnapKV, with a draft LAQ, with a repeated context
KVzip.
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

Group = Literal["mean", "max", "sum"]
"""How the query heads of one key/value head are reduced."""
Over = Literal["mean", "max"]
"""How the queries are reduced."""


@dataclass(frozen=True)
class Reduction:
    """How the attention rows of n queries become one score a key."""

    group: Group = "mean"
    over: Over = "mean"


def attention_rows(q_BHnd: Tensor, k_BGTd: Tensor, own_BGmd: Tensor) -> Tensor:
    """Softmax rows [B, H, n, T + m] of n queries over T keys and m own keys (last n of m causal).

    ``float32`` unless the input is ``float64``. Own key m - n + i belongs to query i.
    """
    B, H, n, d = q_BHnd.shape
    G, m = own_BGmd.shape[1:3]
    exact = torch.float64 if q_BHnd.dtype is torch.float64 else torch.float32
    k = torch.cat([k_BGTd, own_BGmd], dim=2).to(exact)
    q = q_BHnd.to(exact).reshape(B, G, (H // G) * n, d) * d**-0.5
    logit = (q @ k.transpose(-1, -2)).view(B, H, n, -1)
    if m > 0 and n > 1:
        future = torch.ones(n, m, dtype=torch.bool, device=q.device).triu(m - n + 1)
        logit[..., k_BGTd.shape[2] :].masked_fill_(future, float("-inf"))
    return torch.softmax(logit, dim=-1)


def reduce_heads(s_BHT: Tensor, kv_heads: int, group: Group) -> Tensor:
    """[B, H, T] to [B, G, T]."""
    B, H, T = s_BHT.shape
    s = s_BHT.view(B, kv_heads, H // kv_heads, T)
    if group == "max":
        return s.amax(dim=2)
    return s.mean(dim=2) if group == "mean" else s.sum(dim=2)


def lookahead_scores(
    q_BHnd: Tensor,
    k_BGTd: Tensor,
    own_BGmd: Tensor,
    *,
    group: Group = "mean",
    over: Over = "mean",
    keep_heads: bool = False,
) -> Tensor:
    """Score of each of T keys: [B, G, T], or [B, H, T] with ``keep_heads``.

    Each row sums to at most 1 with ``mean``: the rest lies on the queries' own keys. This is the
    reference twin of :func:`nightlab.kernels.kv.score_triton.lookahead_scores`; it writes the
    n x T matrix, the kernel does not.
    """
    rows = attention_rows(q_BHnd, k_BGTd, own_BGmd)[..., : k_BGTd.shape[2]]
    s_BHT = rows.amax(dim=2) if over == "max" else rows.mean(dim=2)
    return s_BHT if keep_heads else reduce_heads(s_BHT, k_BGTd.shape[1], group)


def scored_attention(
    q_BHnd: Tensor,
    k_BGTd: Tensor,
    v_BGTd: Tensor,
    own_k_BGmd: Tensor,
    own_v_BGmd: Tensor,
    reduction: Reduction,
) -> tuple[Tensor, Tensor]:
    """Scores [B, G, T] as of :func:`lookahead_scores`, and the attention output [B, H, n, d].

    Both come from one pass over the keys: the rows that weigh the values are the rows scored.
    """
    B, H, n, d = q_BHnd.shape
    G, T = k_BGTd.shape[1:3]
    rows = attention_rows(q_BHnd, k_BGTd, own_k_BGmd)
    far = rows[..., :T]
    s_BHT = far.amax(dim=2) if reduction.over == "max" else far.mean(dim=2)
    weight = rows.to(v_BGTd.dtype).view(B, G, (H // G) * n, -1)
    out = weight[..., :T] @ v_BGTd + weight[..., T:] @ own_v_BGmd
    return reduce_heads(s_BHT, G, reduction.group), out.view(B, H, n, d)


class LookaheadScores(torch.autograd.Function):
    """:func:`lookahead_scores` (mean, per query head) with its gradient in closed form.

    Recomputes the rows instead of storing them. With g the incoming gradient over T, divided by
    n: ``D_i = sum_j P_ij g_j``, ``dz_ij = P_ij (g_j - D_i)``, ``dq = scale dz k`` and
    ``dk_own = scale dz^T q``; own keys have g = 0. The prompt keys are frozen and get none.
    """

    @staticmethod
    def forward(ctx: object, q_BHnd: Tensor, k_BGTd: Tensor, own_BGmd: Tensor) -> Tensor:
        cast("torch.autograd.function.FunctionCtx", ctx).save_for_backward(q_BHnd, k_BGTd, own_BGmd)
        return lookahead_scores(q_BHnd, k_BGTd, own_BGmd, keep_heads=True)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None, Tensor]:
        saved = cast("torch.autograd.function.BackwardCFunction", ctx).saved_tensors
        q, k, own = cast("tuple[Tensor, Tensor, Tensor]", saved)
        B, H, n, d = q.shape
        G, T = k.shape[1:3]
        rows = attention_rows(q, k, own)
        g = F.pad(grads[0].to(rows.dtype) / n, (0, own.shape[2]))[:, :, None]
        dz = rows * (g - (rows * g).sum(dim=-1, keepdim=True)) * d**-0.5
        dz = dz.view(B, G, (H // G) * n, -1)
        keys = torch.cat([k, own], dim=2).to(rows.dtype)
        dq = (dz @ keys).view(B, H, n, d)
        down = dz[..., T:].transpose(-1, -2) @ q.to(rows.dtype).reshape(B, G, -1, d)
        return dq.to(q.dtype), None, down.to(own.dtype)


def differentiable_scores(q_BHnd: Tensor, k_BGTd: Tensor, own_BGmd: Tensor) -> Tensor:
    """Scores per query head [B, H, T] with gradients to queries and own keys only."""
    return cast("Tensor", LookaheadScores.apply(q_BHnd, k_BGTd, own_BGmd))  # type: ignore[no-untyped-call]


def cumulative_scores(
    q_BHTd: Tensor, k_BGTd: Tensor, *, group: Group = "mean", block: int = 256
) -> Tensor:
    """H2O: column sums of the causal T x T attention, reduced over the group: [B, G, T].

    Works through the queries in blocks, so that memory grows with ``block * T``.
    """
    B, H, T, _ = q_BHTd.shape
    total = q_BHTd.new_zeros(B, H, T, dtype=torch.float32)
    for start in range(0, T, block):
        end = min(start + block, T)
        rows = attention_rows(
            q_BHTd[:, :, start:end], k_BGTd[:, :, :start], k_BGTd[:, :, start:end]
        )
        total[:, :, :end] += rows.sum(dim=2)
    return reduce_heads(total, k_BGTd.shape[1], group)
