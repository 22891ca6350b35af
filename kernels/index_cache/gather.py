"""The fast torch path: gather the selected keys, then small batched matrix products.

Work is cut into units n = (batch, key/value head, row); a unit has M = groups * block_q queries and
L = K * block_k gathered keys, so token and block sets run through the same lines. Units are taken
in chunks whose buffers stay in cache, and the buffers are reused. Formulas: reference 5.1.
"""

from typing import Any

import torch
from torch import Tensor

from nightlab.kernels.index_cache.index_set import IndexSet
from nightlab.kernels.index_cache.reference import Attended

CHUNK_FLOATS = 1 << 19
"""Floats in one chunk's buffers: about the 2 MB of two cores' second-level cache."""


class _Units:
    """One call's tensors folded into units, and the buffers that every chunk reuses."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, index: IndexSet, scale: float) -> None:
        self.index, self.scale = index, scale
        self.batch, self.heads, self.queries, self.width = q.shape
        self.kv_heads, self.groups = k.shape[1], self.heads // k.shape[1]
        self.rows, slots = index.indices.shape[1:]
        self.m, self.length = self.groups * index.block_q, slots * index.block_k
        self.count = self.batch * self.kv_heads * self.rows
        self.q = self.fold(q)
        self.k, self.v = self.blocks(k), self.blocks(v)
        per_unit = self.length * (q.shape[-1] + v.shape[-1]) + 2 * self.m * self.length
        self.chunk = max(1, min(self.count, CHUNK_FLOATS // max(1, per_unit)))
        self.k_buffer = self.k.new_empty(self.chunk * slots, self.k.shape[1])
        self.v_buffer = self.v.new_empty(self.chunk * slots, self.v.shape[1])
        self.s_buffer = self.q.new_empty(self.chunk, self.m, self.length)
        self.whole = index.whole.flatten()
        self.flat_index = index.safe_indices.flatten(0, 1)
        self.bias = index.bias(q.dtype).flatten(0, 1)

    def fold(self, x: Tensor) -> Tensor:
        """[B, H, T, D] -> [units, M, D], queries padded to whole tiles."""
        block = self.index.block_q
        x = _padded(x, self.rows * block)
        x = x.reshape(self.batch, self.kv_heads, self.groups, self.rows, block, -1)
        return x.transpose(2, 3).reshape(self.count, self.m, -1)

    def unfold(self, x: Tensor) -> Tensor:
        """[units, M, D] -> [B, H, T, D]."""
        block = self.index.block_q
        x = x.view(self.batch, self.kv_heads, self.rows, self.groups, block, -1).transpose(2, 3)
        return x.reshape(self.batch, self.heads, self.rows * block, -1)[:, :, : self.queries]

    def blocks(self, x: Tensor) -> Tensor:
        """[B, N, S, D] -> [B*N*nK, block_k*D]: one gatherable line a key block."""
        x = _padded(x, self.index.key_blocks * self.index.block_k)
        return x.reshape(self.batch * self.kv_heads * self.index.key_blocks, -1)

    def unblocks(self, x: Tensor) -> Tensor:
        """[B*N*nK, block_k*D] -> [B, N, S, D]."""
        padded = self.index.key_blocks * self.index.block_k
        return x.view(self.batch, self.kv_heads, padded, -1)[:, :, : self.index.keys]

    def scores(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scaled scores [c, M, L] with -inf where hidden, gathered keys and values, lines [c*K]."""
        units = torch.arange(start, stop, device=self.q.device)
        head = units // self.rows
        row = (head // self.kv_heads) * self.rows + units % self.rows
        lines = (self.flat_index[row] + (head * self.index.key_blocks)[:, None]).flatten()
        size = stop - start
        keys = torch.index_select(self.k, 0, lines, out=self.k_buffer[: lines.numel()])
        values = torch.index_select(self.v, 0, lines, out=self.v_buffer[: lines.numel()])
        keys, values = keys.view(size, self.length, -1), values.view(size, self.length, -1)
        s = self.s_buffer[:size]
        open_to_all = bool(self.whole[row].all())
        bias = s if open_to_all else self._bias(row)
        beta = 0 if open_to_all else 1
        torch.baddbmm(bias, self.q[start:stop], keys.mT, beta=beta, alpha=self.scale, out=s)
        return s, keys, values, lines

    def _bias(self, row: Tensor) -> Tensor:
        """[c, M or 1, L]: what hides keys from the queries of the units on these rows."""
        bias = self.bias[row]
        if self.groups == 1 or self.index.block_q == 1:
            return bias
        return bias[:, None].expand(-1, self.groups, -1, -1).reshape(len(row), self.m, -1)


def _padded(x: Tensor, length: int) -> Tensor:
    """[..., T, D] with zero rows up to ``length``; the tensor itself where that is T."""
    missing = length - x.shape[2]
    return torch.nn.functional.pad(x, (0, 0, 0, missing)) if missing else x


class _Gather(torch.autograd.Function):
    """Values by gathered softmax attention; gradients by recomputing the probabilities from lse."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        index: IndexSet,
        scale: float,
        with_target: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        units = _Units(q, k, v, index, scale)
        out = units.q.new_empty(units.count, units.m, v.shape[-1])
        lse = units.q.new_empty(units.count, units.m)
        target = units.q.new_empty(units.count, index.indices.shape[2]) if with_target else None
        for start in range(0, units.count, units.chunk):
            stop = min(start + units.chunk, units.count)
            s, _, values, _ = units.scores(start, stop)
            most = s.amax(-1, keepdim=True)
            most.masked_fill_(most == float("-inf"), 0.0)
            weight = s.sub_(most).exp_()
            total = weight.sum(-1, keepdim=True)
            empty = total == 0
            total.masked_fill_(empty, 1.0)
            torch.bmm(weight, values, out=out[start:stop]).div_(total)
            lse[start:stop] = (most + total.log()).masked_fill_(empty, float("inf"))[..., 0]
            if target is not None:
                slots = weight.div_(total).view(stop - start, units.m, -1, index.block_k)
                target[start:stop] = slots.sum((1, 3))
        out_BHTD = units.unfold(out)
        lse_BHT = units.unfold(lse[..., None]).squeeze(-1)
        ctx.save_for_backward(q, k, v, out_BHTD, lse_BHT)
        ctx.index, ctx.scale = index, scale
        ctx.mark_non_differentiable(lse_BHT)
        if target is None:
            return out_BHTD, lse_BHT, None
        target = target.view(units.batch, units.kv_heads, units.rows, -1).sum(1)
        target = target / target.sum(-1, keepdim=True).clamp_min(1e-10)
        ctx.mark_non_differentiable(target)
        return out_BHTD, lse_BHT, target

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        units = _Units(q, k, v, ctx.index, ctx.scale)
        do = units.fold(grad_out)
        delta = units.fold((grad_out * out).sum(-1, keepdim=True))
        row_lse = units.fold(lse[..., None])
        dq = torch.empty_like(units.q)
        dk, dv = torch.zeros_like(units.k), torch.zeros_like(units.v)
        dp_buffer = torch.empty_like(units.s_buffer)
        dk_buffer, dv_buffer = torch.empty_like(units.k_buffer), torch.empty_like(units.v_buffer)
        for start in range(0, units.count, units.chunk):
            stop = min(start + units.chunk, units.count)
            s, keys, values, lines = units.scores(start, stop)
            n, size = lines.numel(), stop - start
            probs = s.sub_(row_lse[start:stop]).exp_()
            dv_lines = dv_buffer[:n].view(size, units.length, -1)
            torch.bmm(probs.mT, do[start:stop], out=dv_lines)
            dv.index_add_(0, lines, dv_buffer[:n])
            ds = torch.bmm(do[start:stop], values.mT, out=dp_buffer[:size])
            ds.sub_(delta[start:stop]).mul_(probs)
            torch.bmm(ds, keys, out=dq[start:stop])
            dk_lines = dk_buffer[:n].view(size, units.length, -1)
            torch.bmm(ds.mT, units.q[start:stop], out=dk_lines)
            dk.index_add_(0, lines, dk_buffer[:n])
        dq = units.unfold(dq.mul_(ctx.scale))
        return dq, units.unblocks(dk.mul_(ctx.scale)), units.unblocks(dv), None, None, None


def attention(
    q_BHTD: Tensor,
    k_BNSD: Tensor,
    v_BNSD: Tensor,
    index: IndexSet,
    scale: float,
    with_target: bool = False,
) -> Attended:
    """The contract of :func:`nightlab.kernels.index_cache.reference.attention`, by gathering."""
    out, lse, target = _Gather.apply(q_BHTD, k_BNSD, v_BNSD, index, scale, with_target)  # type: ignore[no-untyped-call]
    return Attended(out, lse, target)
