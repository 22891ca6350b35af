"""Launching the Triton kernels: shapes in, shapes out, the contracts of ``reference``.

Triton is imported when a kernel is first launched, so a CPU program never pays for it.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from nightlab.kernels.index_cache import select, tiles
from nightlab.kernels.index_cache.index_set import IndexSet, Kind
from nightlab.kernels.index_cache.reference import Attended
from nightlab.kernels.index_cache.select import BlockShape

ROWS = 8192
"""Queries whose logits are held at once."""
BUFFER = 1 << 26
"""Most logits held at once: 256 MB of fp32."""
RADIX_COLUMNS = 8192
"""Columns from which the radix kernel selects; ``torch.topk`` is faster below."""


def usable(like: Tensor, path: str) -> tuple[bool, str]:
    """Whether to run on Triton, and why. ValueError if ``triton`` is asked for and cannot run."""
    if path not in ("auto", "triton"):
        return False, "asked for"
    if find_spec("triton") is None:
        found, reason = False, "triton is not installed"
    elif like.is_cuda:
        found, reason = True, "tensors on a GPU"
    elif path == "triton" and interpreting():
        found, reason = True, "the interpreter was asked for"
    else:
        found, reason = False, "tensors on the CPU"
    if path == "triton" and not found:
        raise ValueError(f"the triton path cannot run: {reason}")
    return found, reason


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter (TRITON_INTERPRET=1 when they were defined)."""
    import triton  # type: ignore[import-untyped]

    return bool(triton.knobs.runtime.interpret)


def padded(size: int) -> int:
    """The power of two, at least 16, that a tile needs to hold ``size``."""
    return max(16, 1 << (size - 1).bit_length())


def _up(like: Tensor) -> bool:
    return like.dtype is torch.bfloat16 and interpreting()


def _index_shape(q: Tensor, relu: bool) -> dict[str, Any]:
    heads, width = q.shape[-2:]
    return {"HEADS": heads, "WIDTH": width, "WIDTH_P": padded(width), "RELU": relu, "UP": _up(q)}


def indexer_logits(
    q_BCID: Tensor, k_BSD: Tensor, w_BCI: Tensor, q_offset: int, relu: bool
) -> Tensor:
    """fp32 [B, C, S], -inf above the diagonal."""
    from nightlab.kernels.index_cache.triton_indexer import indexer_logits_kernel

    batch, queries, heads, width = q_BCID.shape
    keys = k_BSD.shape[1]
    out = q_BCID.new_empty(batch, queries, keys, dtype=torch.float32)
    bm, bn = tiles.logits_tile(heads, width)
    grid = (-(-keys // bn), -(-queries // bm), batch)
    indexer_logits_kernel[grid](
        q_BCID.contiguous(), k_BSD.contiguous(), w_BCI.contiguous(), out, queries, keys, q_offset,
        **_index_shape(q_BCID, relu), BM=bm, BN=bn, **tiles.LOGITS,
    )  # fmt: skip
    return out


def topk_select(logits_RS: Tensor, topk: int) -> Tensor:
    """int32 [rows, min(k, S)] of fp32 logits by the radix kernel."""
    from nightlab.kernels.index_cache.triton_topk import topk_kernel

    rows, columns = logits_RS.shape
    topk = min(topk, columns)
    out = torch.full((rows, topk), -1, dtype=torch.int32, device=logits_RS.device)
    logits_RS = logits_RS.contiguous()
    block = min(tiles.TOPK_COLUMNS, padded(columns))
    topk_kernel[(rows,)](logits_RS, out, columns, topk, columns, BN=block, **tiles.TOPK)
    return out


def select_tokens(q: Tensor, k: Tensor, w: Tensor, topk: int, q_offset: int, relu: bool) -> Tensor:
    """int32 [B, T, min(k, S)]: logits for a chunk of queries, then their top-k."""
    batch, queries = q.shape[:2]
    keys = k.shape[1]
    chunk = max(1, min(queries, ROWS, BUFFER // (batch * keys)))
    parts = []
    for start in range(0, queries, chunk):
        part = slice(start, start + chunk)
        logits = indexer_logits(q[:, part], k, w[:, part], q_offset + start, relu)
        if keys >= RADIX_COLUMNS:
            chosen = topk_select(logits.flatten(0, 1), topk).view(batch, logits.shape[1], -1)
        else:
            chosen = select.topk_select(logits, topk)
        parts.append(chosen)
    return torch.cat(parts, 1)


def select_blocks(
    q: Tensor, k: Tensor, w: Tensor, slots: int, q_offset: int, relu: bool, shape: BlockShape
) -> Tensor:
    """int32 [B, R, slots]: pooled block scores straight from the kernel, then a tiny top-k."""
    queries = q.shape[1]
    rows = -(-queries // shape.block_q)
    position = select.window_positions(shape, queries, q_offset, q.device)
    scores = block_scores(
        select.window(q, shape, rows), k, select.window(w, shape, rows), position, shape, relu
    )
    return select.topk_select(select.force(scores, shape, queries, q_offset), slots)


def block_scores(
    q_BRWID: Tensor, k_BSD: Tensor, w_BRWI: Tensor, position_RW: Tensor, shape: BlockShape,
    relu: bool,
) -> Tensor:  # fmt: skip
    """fp32 [B, R, nK]: maximum of the causal logits of each window and key block."""
    from nightlab.kernels.index_cache.triton_indexer import block_scores_kernel

    batch, rows, width = q_BRWID.shape[:3]
    keys = k_BSD.shape[1]
    blocks = -(-keys // shape.block_k)
    out = q_BRWID.new_empty(batch, rows, blocks, dtype=torch.float32)
    block_scores_kernel[(blocks, rows, batch)](
        q_BRWID.contiguous(), k_BSD.contiguous(), w_BRWI.contiguous(),
        position_RW.int().contiguous(), out, rows, width, keys, shape.block_k,
        **_index_shape(q_BRWID, relu), BM=padded(width), BN=padded(shape.block_k),
        **tiles.BLOCK_SCORES,
    )  # fmt: skip
    return out


class _SelectedLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, w: Tensor, index: IndexSet, relu: bool) -> Tensor:
        from nightlab.kernels.index_cache.triton_indexer import selected_logits_kernel

        q, k, w = q.contiguous(), k.contiguous(), w.contiguous()
        ctx.save_for_backward(q, k, w)
        ctx.index, ctx.relu = index, relu
        batch, queries, slots = index.indices.shape
        out = q.new_empty(batch, queries, slots, dtype=torch.float32)
        selected_logits_kernel[(queries, batch)](
            q, k, w, index.indices, out, queries, index.keys, slots, index.q_offset,
            **_index_shape(q, relu), HEADS_P=padded(q.shape[2]), BK=tiles.SLOTS, **tiles.SELECTED,
        )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from nightlab.kernels.index_cache.triton_indexer import selected_logits_bwd_kernel

        q, k, w = ctx.saved_tensors
        index = ctx.index
        batch, queries, slots = index.indices.shape
        dq, dw = torch.empty_like(q), torch.empty_like(w)
        dk = torch.zeros_like(k, dtype=torch.float32)
        selected_logits_bwd_kernel[(queries, batch)](
            q, k, w, index.indices, grad.contiguous(), dq, dk, dw, queries, index.keys, slots,
            index.q_offset, **_index_shape(q, ctx.relu), HEADS_P=padded(q.shape[2]),
            BK=tiles.SLOTS_BACKWARD, **tiles.SELECTED_BACKWARD,
        )  # fmt: skip
        return dq, dk.to(k.dtype), dw, None, None


def selected_logits(q: Tensor, k: Tensor, w: Tensor, index: IndexSet, relu: bool = True) -> Tensor:
    """The contract of ``reference.selected_logits``; dk by atomics."""
    logits: Tensor = _SelectedLogits.apply(q, k, w, index.untaught(), relu)  # type: ignore[no-untyped-call]
    return logits


def _head_shape(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Any]:
    d, dv = q.shape[-1], v.shape[-1]
    return {
        "G": q.shape[1] // k.shape[1], "D": d, "D_P": padded(d), "DV": dv, "DV_P": padded(dv),
        "UP": _up(q),
    }  # fmt: skip


class _Attention(torch.autograd.Function):
    """Forward and backward kernels of both kinds."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, index: IndexSet, scale: float,
        deterministic: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out, lse = _forward(q, k, v, index, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.index, ctx.scale, ctx.deterministic = index, scale, deterministic
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        grad = grad.contiguous()
        delta = (grad.float() * out.float()).sum(-1)
        args = (q, k, v, grad, lse, delta, ctx.index, ctx.scale)
        if ctx.index.kind is Kind.BLOCK:
            dq, dk, dv = _block_backward(*args)
        else:
            dq, dk, dv = _token_backward(*args, ctx.deterministic)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None, None


def _forward(
    q: Tensor, k: Tensor, v: Tensor, index: IndexSet, scale: float
) -> tuple[Tensor, Tensor]:
    from nightlab.kernels.index_cache import triton_block, triton_token

    batch, heads, queries, _ = q.shape
    kv, slots = k.shape[1], index.indices.shape[2]
    out = q.new_empty(batch, heads, queries, v.shape[-1])
    lse = q.new_empty(batch, heads, queries, dtype=torch.float32)
    shape = _head_shape(q, k, v)
    if index.kind is Kind.BLOCK:
        triton_block.block_forward_kernel[(index.indices.shape[1], batch * heads)](
            q, k, v, index.indices, out, lse, queries, index.keys, slots, index.q_offset, scale,
            index.block_q, index.block_k, **shape, HEADS=heads, BQ=padded(index.block_q),
            BK=padded(index.block_k), **tiles.block(shape["D_P"], 2),
        )  # fmt: skip
    else:
        group = padded(shape["G"])
        triton_token.token_forward_kernel[(queries, batch * kv)](
            q, k, v, index.indices, out, lse, queries, index.keys, slots, index.q_offset, scale,
            **shape, KV=kv, G_P=group, BK=tiles.SLOTS, **tiles.token(group, 2),
        )  # fmt: skip
    return out, lse


def _token_backward(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, lse: Tensor, delta: Tensor, index: IndexSet,
    scale: float, deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    from nightlab.kernels.index_cache import triton_token

    batch, kv, keys = k.shape[:3]
    queries, slots = index.queries, index.indices.shape[2]
    shape = _head_shape(q, k, v)
    dq = torch.empty_like(q)
    dk = torch.zeros_like(k, dtype=torch.float32)
    dv = torch.zeros_like(v, dtype=torch.float32)
    group = padded(shape["G"])
    triton_token.token_backward_kernel[(queries, batch * kv)](
        q, k, v, index.indices, do, lse, delta, dq, dk, dv, queries, keys, slots, index.q_offset,
        scale, **shape, KV=kv, G_P=group, BK=tiles.SLOTS_BACKWARD,
        ATOMIC=not deterministic, **tiles.token(group, 1),
    )  # fmt: skip
    if deterministic:
        shape.pop("UP")
        inverse = index.inverse
        triton_token.token_dkv_kernel[(keys, batch * kv)](
            q, k, v, inverse.offsets, inverse.rows, do, lse, delta, dk, dv, queries, keys, scale,
            **shape, KV=kv, BT=tiles.ORDERED_QUERIES, **tiles.ORDERED_DKV,
        )  # fmt: skip
    return dq, dk, dv


def _block_backward(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, lse: Tensor, delta: Tensor, index: IndexSet,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    from nightlab.kernels.index_cache import triton_block

    batch, heads, queries, _ = q.shape
    kv, keys, slots = k.shape[1], k.shape[2], index.indices.shape[2]
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    tile = {"BQ": padded(index.block_q), "BK": padded(index.block_k)}
    shape = _head_shape(q, k, v)
    triton_block.block_dq_kernel[(index.indices.shape[1], batch * heads)](
        q, k, v, index.indices, do, lse, delta, dq, queries, keys, slots, index.q_offset, scale,
        index.block_q, index.block_k, **shape, HEADS=heads, **tile, **tiles.block(shape["D_P"], 1),
    )  # fmt: skip
    inverse = index.inverse
    triton_block.block_dkv_kernel[(index.key_blocks, batch * kv)](
        q, k, v, inverse.offsets, inverse.rows, do, lse, delta, dk, dv, queries, keys,
        index.q_offset, scale, index.block_q, index.block_k, **shape, KV=kv, **tile,
        **tiles.BLOCK_DKV,
    )  # fmt: skip
    return dq, dk, dv


def attention(
    q: Tensor, k: Tensor, v: Tensor, index: IndexSet, scale: float, with_target: bool = False,
    deterministic: bool = False,
) -> Attended:  # fmt: skip
    """The contract of ``reference.attention``. ``deterministic`` orders a token set's dk and dv;
    a block set's always are."""
    deterministic = deterministic or torch.are_deterministic_algorithms_enabled()
    out, lse = _Attention.apply(q, k, v, index, scale, deterministic)  # type: ignore[no-untyped-call]
    return Attended(out, lse, _target(q, k, lse, index, scale) if with_target else None)


@torch.no_grad()
def _target(q: Tensor, k: Tensor, lse: Tensor, index: IndexSet, scale: float) -> Tensor:
    from nightlab.kernels.index_cache import triton_block, triton_token

    q, k = q.contiguous(), k.contiguous()
    batch, rows, slots = index.indices.shape
    heads, kv = q.shape[1], k.shape[1]
    target = q.new_empty(batch, rows, slots, dtype=torch.float32)
    shape = {"G": heads // kv, "D": q.shape[-1], "D_P": padded(q.shape[-1]), "UP": _up(q)}
    sizes = (index.queries, index.keys, slots, index.q_offset, scale)
    if index.kind is Kind.BLOCK:
        triton_block.block_target_kernel[(slots, rows, batch)](
            q, k, index.indices, lse, target, *sizes, index.block_q, index.block_k, HEADS=heads,
            BQ=padded(index.block_q), BK=padded(index.block_k), **shape, **tiles.TARGET,
        )  # fmt: skip
    else:
        triton_token.token_target_kernel[(rows, batch, -(-slots // tiles.SLOTS))](
            q, k, index.indices, lse, target, *sizes, KV=kv, G_P=padded(heads // kv),
            BK=tiles.SLOTS, **shape, **tiles.TARGET,
        )  # fmt: skip
    return target / target.sum(-1, keepdim=True).clamp_min(1e-10)


def decode(q: Tensor, k: Tensor, v: Tensor, index: IndexSet, scale: float, splits: int) -> Tensor:
    """The contract of ``sparse_attention_decode``: one launch, then a merge of ``splits`` parts."""
    from nightlab.kernels.index_cache.decode import merge
    from nightlab.kernels.index_cache.triton_decode import decode_kernel

    batch, heads = q.shape[:2]
    kv, slots = k.shape[1], index.indices.shape[2]
    k, v = (x if x.stride()[2:] == (x.shape[-1], 1) else x.contiguous() for x in (k, v))
    shape = _head_shape(q, k, v)
    part = -(-slots * index.block_k // splits)
    out = q.new_empty(splits, batch, heads, v.shape[-1], dtype=torch.float32)
    lse = q.new_empty(splits, batch, heads, dtype=torch.float32)
    decode_kernel[(splits, batch * kv)](
        q.contiguous(), k, v, index.indices, out, lse, index.keys, slots, index.q_offset, scale,
        part, index.block_k, k.stride(0), k.stride(1), v.stride(0), v.stride(1), **shape, KV=kv,
        G_P=padded(shape["G"]), BK=tiles.SLOTS, **tiles.DECODE,
    )  # fmt: skip
    return merge(out, lse).to(q.dtype)[:, :, None]
