"""Index logits of the selected slots only, with gradient: O(T K), what the KL loss trains (5.1)."""

from typing import Any

import torch
from torch import Tensor

from nightlab.kernels.index_cache.index_set import IndexSet, Kind
from nightlab.kernels.index_cache.select import BlockShape, window, window_positions

CHUNK_FLOATS = 1 << 20


class _SelectedLogits(torch.autograd.Function):
    """logits[t, j] = sum_h w[t, h] relu(q[t, h] . k[S_t[j]]), gradients by the contract of 5.1."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, w: Tensor, index: IndexSet, relu: bool) -> Tensor:
        ctx.save_for_backward(q, k, w)
        ctx.index, ctx.relu = index, relu
        logits = q.new_empty(index.indices.shape)
        for batch, part, lines in _chunks(q, index):
            keys = k[batch][lines.flatten()].view(*lines.shape, -1)
            dots = q[batch, part] @ keys.mT
            logits[batch, part] = (w[batch, part, None] @ (dots.relu_() if relu else dots))[:, 0]
        return logits.masked_fill_(~index.valid, float("-inf"))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, w = ctx.saved_tensors
        dq, dk, dw = torch.empty_like(q), torch.zeros_like(k), torch.empty_like(w)
        grad = grad.masked_fill(~ctx.index.valid, 0.0)
        for batch, part, lines in _chunks(q, ctx.index):
            keys = k[batch][lines.flatten()].view(*lines.shape, -1)
            dots = q[batch, part] @ keys.mT
            g = grad[batch, part]
            per_head = g[:, None] * w[batch, part, :, None]
            if ctx.relu:
                per_head.mul_(dots > 0)
                dots.relu_()
            dw[batch, part] = (dots @ g[:, :, None])[..., 0]
            dq[batch, part] = per_head @ keys
            dk[batch].index_add_(0, lines.flatten(), (per_head.mT @ q[batch, part]).flatten(0, 1))
        return dq, dk, dw, None, None


def _chunks(q: Tensor, index: IndexSet) -> list[tuple[int, slice, Tensor]]:
    """(batch, queries, gathered key numbers [c, K]) in pieces that stay in cache."""
    slots = index.indices.shape[2]
    size = max(1, CHUNK_FLOATS // max(1, slots * (q.shape[-1] + 2 * q.shape[2])))
    return [
        (batch, slice(start, start + size), index.safe_indices[batch, start : start + size])
        for batch in range(q.shape[0])
        for start in range(0, q.shape[1], size)
    ]


def selected_logits(
    q_BTID: Tensor, k_BSD: Tensor, w_BTI: Tensor, index: IndexSet, relu: bool = True
) -> Tensor:
    """The contract of ``reference.selected_logits`` for a token set, O(T K)."""
    logits: Tensor = _SelectedLogits.apply(q_BTID, k_BSD, w_BTI, index.untaught(), relu)  # type: ignore[no-untyped-call]
    return logits


def selected_block_logits(
    q_BTID: Tensor,
    k_BSD: Tensor,
    w_BTI: Tensor,
    index: IndexSet,
    shape: BlockShape,
    relu: bool = True,
) -> Tensor:
    """Max-pooled logits [B, R, K] of a block set's slots, with gradient through the maximum.

    -inf where a slot is invalid or no pooled pair of it is causal (part of a tile's own blocks).
    """
    if index.kind is not Kind.BLOCK:
        raise ValueError("token sets have token logits: use selected_logits")
    batch, rows, slots = index.indices.shape
    q, w = window(q_BTID, shape, rows), window(w_BTI, shape, rows)
    pad = (0, 0, 0, index.key_blocks * shape.block_k - index.keys)
    blocks = torch.nn.functional.pad(k_BSD, pad).view(batch * index.key_blocks, shape.block_k, -1)
    base = torch.arange(batch, device=q.device).view(-1, 1, 1) * index.key_blocks
    keys = blocks[(index.safe_indices + base).flatten()].view(batch, rows, slots, shape.block_k, -1)
    dots = torch.einsum("brwid,brksd->brwiks", q, keys)
    scores = torch.einsum("brwiks,brwi->brwks", dots.relu() if relu else dots, w)
    position = window_positions(shape, index.queries, index.q_offset, q.device)
    key = index.indices[..., None] * shape.block_k + torch.arange(shape.block_k, device=q.device)
    seen = key[:, :, None] <= position[None, :, :, None, None]
    seen = seen & index.valid[:, :, None, :, None] & (key < index.keys)[:, :, None]
    return scores.masked_fill(~seen, float("-inf")).amax((2, 4))
