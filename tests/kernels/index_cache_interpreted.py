"""Run as a program under TRITON_INTERPRET=1: every kernel on tiny grids, beside its specification.

Prints one JSON object: the name of a comparison to its largest error (0 or 1 where selections are
compared). A program of its own because the interpreter is chosen when kernels are defined.
"""

import json
import warnings

import torch
from torch import Tensor

from nightlab.kernels.index_cache import (
    BlockShape,
    IndexSet,
    Projections,
    reference,
    select_blocks,
    select_tokens,
    sparse_attention_decode,
    triton_path,
)
from nightlab.kernels.index_cache import select as cpu
from nightlab.kernels.index_cache.indexer import without_padding


def error(a: Tensor, b: Tensor) -> float:
    """Largest difference; infinities must coincide."""
    a, b = a.detach().double(), b.detach().double()
    if not torch.equal(a.isinf(), b.isinf()):
        return float("inf")
    return float((a - b).masked_fill(a.isinf(), 0).abs().max())


def projections(queries: int, keys: int, heads: int = 8) -> Projections:
    return Projections(
        torch.randn(1, queries, heads, 12),
        torch.randn(1, keys, 12),
        torch.randn(1, queries, heads),
    )


def attention(name: str, index: IndexSet, kv: int, errors: dict[str, float]) -> None:
    batch, queries, keys = index.indices.shape[0], index.queries, index.keys
    q = torch.randn(batch, 4, queries, 10, requires_grad=True)
    k = torch.randn(batch, kv, keys, 10, requires_grad=True)
    v = torch.randn(batch, kv, keys, 20, requires_grad=True)
    want = reference.attention(q, k, v, index, 0.3)
    assert want.lse is not None
    assert want.target is not None
    grad = torch.randn_like(want.out)
    wanted = torch.autograd.grad(want.out, (q, k, v), grad)
    for order in ("atomic", "ordered"):
        got = triton_path.attention(q, k, v, index, 0.3, True, order == "ordered")
        assert got.lse is not None
        assert got.target is not None
        errors[f"{name} {order} out"] = error(got.out, want.out)
        errors[f"{name} {order} lse"] = error(got.lse, want.lse)
        errors[f"{name} {order} target"] = error(got.target, want.target)
        found = torch.autograd.grad(got.out, (q, k, v), grad)
        for part, mine, theirs in zip(("dq", "dk", "dv"), found, wanted, strict=True):
            errors[f"{name} {order} {part}"] = error(mine, theirs)


def selection(errors: dict[str, float]) -> None:
    made = projections(21, 30)
    logits = reference.indexer_logits(*made, 9)
    errors["indexer logits"] = error(triton_path.indexer_logits(*made[:2], made.w, 9, True), logits)
    tied = torch.randn(4, 50).round(decimals=1)
    tied[0, 5:] = float("-inf")
    tied[1], tied[1, 3] = -0.0, 0.0
    tied[2] = float("-inf")
    for topk in (9, 50):
        same = torch.equal(triton_path.topk_select(tied, topk), reference.topk_select(tied, topk))
        errors[f"topk {topk} differs"] = float(not same)
    for pool in ("causal", "first", "tile"):
        shape = BlockShape(block_q=16, block_k=8, local=2, sink=1, pool=pool)
        made = projections(40, 40, heads=2)
        args = (*made, 5, 0, True, shape)
        same = torch.equal(triton_path.select_blocks(*args), cpu.select_blocks(*args))
        errors[f"blocks {pool} differ"] = float(not same)


def selected(errors: dict[str, float]) -> None:
    made = Projections(*(x.requires_grad_() for x in projections(5, 14)))
    index = select_tokens(made, 6, 9)
    want = reference.selected_logits(*made, index)
    got = triton_path.selected_logits(*made, index)
    errors["selected logits"] = error(got, want)
    grad = torch.randn_like(want).masked_fill(want.isinf(), 0.0)
    found, wanted = torch.autograd.grad(got, made, grad), torch.autograd.grad(want, made, grad)
    for part, mine, theirs in zip(("dq", "dk", "dw"), found, wanted, strict=True):
        errors[f"selected logits {part}"] = error(mine, theirs)


def decoding(errors: dict[str, float]) -> None:
    made = projections(1, 30)
    shape = BlockShape(block_q=1, block_k=8)
    for name, index in (
        ("token", select_tokens(made, 11, 29)),
        ("block", select_blocks(made, 16, 29, shape=shape)),
    ):
        q, k, v = torch.randn(1, 4, 1, 10), torch.randn(1, 2, 30, 10), torch.randn(1, 2, 30, 20)
        got = sparse_attention_decode(q, k, v, index, 0.3, splits=3, path="triton")
        errors[f"decode {name}"] = error(got, reference.attention(q, k, v, index, 0.3).out)


def low_precision(errors: dict[str, float]) -> None:
    index = select_tokens(projections(3, 9), 4, 6)
    q, k, v = torch.randn(1, 4, 3, 10), torch.randn(1, 1, 9, 10), torch.randn(1, 1, 9, 20)
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    want = reference.attention(q.float(), k.float(), v.float(), index, 0.3).out
    errors["bf16 out"] = error(triton_path.attention(q, k, v, index, 0.3).out, want)


def main() -> None:
    torch.manual_seed(0)
    errors: dict[str, float] = {}
    attention("token", select_tokens(projections(3, 12), 5, 9), 2, errors)
    padded = without_padding(select_tokens(projections(4, 4), 2), torch.tensor([3]))
    attention("padded", padded, 1, errors)
    tiles = BlockShape(block_q=16, block_k=8)
    attention("block", select_blocks(projections(23, 23), 16, shape=tiles), 2, errors)
    selection(errors)
    selected(errors)
    decoding(errors)
    low_precision(errors)
    print(json.dumps(errors))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
