"""Training the indexer: KL to the attention it stands for, over one layer or all it serves (2.3).

The logit gradient of every row is exactly ``softmax(I) - p``; it is formed in the forward pass and
never by differentiating a quotient.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from nightlab.kernels.index_cache.index_set import IndexSet

Form = Literal["avg", "multi"]


class _SelectedKL(torch.autograd.Function):
    """Mean over rows of KL(p || softmax(logits)) on the finite slots."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        counted = logits.isfinite() & (target.sum(-1, keepdim=True) > 0)
        target = target.to(logits.dtype) * counted
        target = target / target.sum(-1, keepdim=True).clamp_min(1e-10)
        log_q = logits.masked_fill(~counted, -1e30).log_softmax(-1)
        rows = (target.sum(-1) > 0).sum().clamp_min(1)
        ctx.save_for_backward((log_q.exp() * counted - target) / rows)
        divergence = torch.xlogy(target, target) - (target * log_q).masked_fill(~counted, 0.0)
        return divergence.sum() / rows, rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        (direction,) = ctx.saved_tensors
        return direction * grad, None


def indexer_kl_loss(index: IndexSet, form: Form = "avg") -> Tensor:
    """The KL loss of one index set: scalar, mean over the rows that have a target.

    The target is the mean over the layers that called ``index.add_target``: the F layer alone gives
    the own-layer loss, all served layers the multi-layer loss. ``form`` changes the value and not
    the gradient: ``avg`` is KL(mean p || q), ``multi`` is mean KL(p_j || q).
    ValueError if the set has no logits or no target.
    """
    if index.logits is None or index.target_acc is None or index.target_entropy is None:
        raise ValueError(
            "an index set needs logits and a target before its loss: select with "
            "gradient, then attend with return_target and call add_target"
        )
    layers = len(index.target_layers)
    mean = index.target_acc / layers
    loss, rows = _SelectedKL.apply(index.logits, mean)  # type: ignore[no-untyped-call]
    if form == "multi":
        gap = index.target_entropy / layers - torch.xlogy(mean, mean).sum(-1)
        loss = loss + gap.sum() / rows
    result: Tensor = loss
    return result


class _Attach(torch.autograd.Function):
    """Identity on ``out`` that feeds a constant gradient to a loss on the side."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, loss: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        ctx.save_for_backward(loss)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (loss,) = ctx.saved_tensors
        return grad, torch.full_like(loss, ctx.weight), None


def attach_loss(out: Tensor, loss: Tensor, weight: float = 1.0) -> Tensor:
    """``out`` unchanged; its backward also trains ``loss`` as if ``weight * loss`` were added.

    For a model that returns logits only, so that whoever sums its losses need not know this one.
    """
    attached: Tensor = _Attach.apply(out, loss, weight)  # type: ignore[no-untyped-call]
    return attached


class _WarmUp(torch.autograd.Function):
    """Loss and gradients together, a chunk of queries at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        q_index: Tensor,
        k_index: Tensor,
        w: Tensor,
        layers: Sequence[tuple[Tensor, Tensor]],
        scale: float,
        relu: bool,
        chunk: int,
    ) -> Tensor:
        loss = q_index.new_zeros(())
        dq, dk, dw = (torch.zeros_like(x) for x in (q_index, k_index, w))
        rows = q_index.shape[0] * q_index.shape[1]
        for start in range(0, q_index.shape[1], chunk):
            part = slice(start, start + chunk)
            log_p_free, target, future = _dense_target(layers, scale, part)
            dots = torch.einsum("btid,bsd->btis", q_index[:, part], k_index)
            active = dots.relu() if relu else dots
            logits = torch.einsum("btis,bti->bts", active, w[:, part])
            log_q = logits.masked_fill(future, -1e30).log_softmax(-1)
            loss += log_p_free - (target * log_q).masked_fill(future, 0.0).sum()
            g = (log_q.exp() - target).masked_fill(future, 0.0)
            dw[:, part] = torch.einsum("bts,btis->bti", g, active)
            per_head = g[:, :, None] * w[:, part, :, None]
            if relu:
                per_head = per_head * (dots > 0)
            dq[:, part] = torch.einsum("btis,bsd->btid", per_head, k_index)
            dk += torch.einsum("btis,btid->bsd", per_head, q_index[:, part])
        ctx.save_for_backward(dq / rows, dk / rows, dw / rows)
        return loss / rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dq, dk, dw = ctx.saved_tensors
        return dq * grad, dk * grad, dw * grad, None, None, None, None


def _dense_target(
    layers: Sequence[tuple[Tensor, Tensor]], scale: float, part: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of p log p, mean attention [B, C, S] of a chunk of queries, and the causal mask."""
    target: Tensor | None = None
    for q_BHTD, k_BNSD in layers:
        k_BHSD = k_BNSD.repeat_interleave(q_BHTD.shape[1] // k_BNSD.shape[1], 1)
        scores = q_BHTD[:, :, part] @ k_BHSD.mT * scale
        query = torch.arange(q_BHTD.shape[2], device=scores.device)[part]
        offset = k_BHSD.shape[2] - q_BHTD.shape[2]
        future = torch.arange(k_BHSD.shape[2], device=scores.device) > query[:, None] + offset
        probs = scores.masked_fill(future, float("-inf")).softmax(-1).mean(1)
        target = probs if target is None else target + probs
    if target is None:
        raise ValueError("the warm-up loss needs the queries and keys of at least one layer")
    target = target / len(layers)
    return torch.xlogy(target, target).sum(), target, future


def warmup_kl_loss(
    q_index: Tensor,
    k_index: Tensor,
    w: Tensor,
    layers: Sequence[tuple[Tensor, Tensor]],
    scale: float,
    relu: bool = True,
    chunk: int = 256,
) -> Tensor:
    """The dense warm-up loss (1.3): KL over all causal keys, mean over rows, never B x H x T x T.

    ``layers`` holds (q [B,H,T,D], k [B,N,S,D]) of the F layer, or of every layer that it serves;
    they get no gradient. ``q_index`` [B,T,I,d], ``k_index`` [B,S,d] and ``w`` [B,T,I] do.
    """
    with torch.no_grad():
        fixed = [(q.detach(), k.detach()) for q, k in layers]
    loss: Tensor = _WarmUp.apply(q_index, k_index, w, fixed, scale, relu, chunk)  # type: ignore[no-untyped-call]
    return loss
