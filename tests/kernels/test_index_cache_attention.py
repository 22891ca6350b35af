"""Attention over an index set: every path against the plain-PyTorch specification."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nightlab.kernels.choice import explain, forget
from nightlab.kernels.index_cache import (
    BlockShape,
    IndexSet,
    Projections,
    reference,
    select_blocks,
    select_tokens,
    sparse_attention,
)
from nightlab.kernels.index_cache import gather as gathering
from nightlab.kernels.index_cache.indexer import without_padding

PATHS = ("gather", "dense")


def heads(batch: int, count: int, length: int, width: int) -> Tensor:
    return torch.randn(batch, count, length, width, dtype=torch.float64, requires_grad=True)


def scorer(batch: int, queries: int, keys: int) -> Projections:
    return Projections(
        torch.randn(batch, queries, 8, 4),
        torch.randn(batch, keys, 4),
        torch.randn(batch, queries, 8),
    )


def token_set(batch: int, queries: int, keys: int, topk: int) -> IndexSet:
    return select_tokens(scorer(batch, queries, keys), topk, keys - queries)


def block_set(batch: int, queries: int, topk: int, block_q: int, block_k: int) -> IndexSet:
    shape = BlockShape(block_q=block_q, block_k=block_k)
    return select_blocks(scorer(batch, queries, queries), topk, 0, shape=shape)


def same(
    path: str, index: IndexSet, n: int = 4, kv: int = 2, width: int = 8, v_width: int = 6
) -> None:
    """Values, statistics and gradients of a path equal the specification's."""
    batch, queries, keys = index.indices.shape[0], index.queries, index.keys
    q, k, v = (
        heads(batch, n, queries, width),
        heads(batch, kv, keys, width),
        heads(batch, kv, keys, v_width),
    )
    want = reference.attention(q, k, v, index, 0.3)
    got = sparse_attention(q, k, v, index, 0.3, True, True, path=path)  # type: ignore[arg-type]
    assert got.lse is not None
    assert got.target is not None
    torch.testing.assert_close(got.out, want.out)
    torch.testing.assert_close(got.lse, want.lse)
    torch.testing.assert_close(got.target, want.target)
    grad = torch.randn_like(want.out)
    for mine, theirs in zip(
        torch.autograd.grad(got.out, (q, k, v), grad),
        torch.autograd.grad(want.out, (q, k, v), grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [63, 100])
@pytest.mark.parametrize("kv", [1, 2, 4])
def test_values_and_gradients_of_a_token_set_equal_the_specification(
    path: str, size: int, kv: int
) -> None:
    same(path, token_set(2, size, size, 17), kv=kv)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("block_q", "block_k"), [(16, 16), (8, 32), (32, 8)])
def test_values_and_gradients_of_a_block_set_equal_the_specification(
    path: str, block_q: int, block_k: int
) -> None:
    same(path, block_set(2, 100, 40, block_q, block_k))


@pytest.mark.parametrize(
    "make", [lambda: token_set(1, 1000, 1000, 64), lambda: block_set(1, 1000, 256, 64, 64)]
)
def test_a_thousand_tokens_equal_the_specification(make: Callable[[], IndexSet]) -> None:
    same("gather", make(), n=2, kv=1)


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 2), queries=st.integers(1, 40), past=st.integers(0, 30),
    topk=st.integers(1, 50), kv=st.sampled_from([1, 2, 4]), width=st.integers(1, 9),
    path=st.sampled_from(PATHS),
)  # fmt: skip
def test_any_shape_equals_the_specification(
    batch: int, queries: int, past: int, topk: int, kv: int, width: int, path: str
) -> None:
    same(path, token_set(batch, queries, queries + past, topk), kv=kv, width=width)


@settings(max_examples=15, deadline=None)
@given(
    queries=st.integers(1, 90), topk=st.integers(1, 64), block_q=st.sampled_from([4, 8, 16]),
    block_k=st.sampled_from([4, 8, 16]), path=st.sampled_from(PATHS),
)  # fmt: skip
def test_any_tiling_equals_the_specification(
    queries: int, topk: int, block_q: int, block_k: int, path: str
) -> None:
    same(path, block_set(1, queries, topk, block_q, block_k))


@pytest.mark.parametrize("path", ["auto", "reference", *PATHS])
@pytest.mark.parametrize("block", [False, True])
def test_selecting_every_key_is_dense_causal_attention(path: str, block: bool) -> None:
    index = block_set(2, 63, 999, 16, 16) if block else token_set(2, 63, 63, 999)
    q, k, v = heads(2, 4, 63, 8), heads(2, 4, 63, 8), heads(2, 4, 63, 8)
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    got = sparse_attention(q, k, v, index, path=path)  # type: ignore[arg-type]
    torch.testing.assert_close(got.out, dense)


@pytest.mark.parametrize("path", ["reference", *PATHS])
def test_padding_and_empty_rows_give_zero_and_infinite_log_sum_exp(path: str) -> None:
    index = without_padding(token_set(2, 40, 40, 9), torch.tensor([40, 25]))
    q, k, v = heads(2, 4, 40, 8), heads(2, 2, 40, 8), heads(2, 2, 40, 8)
    got = sparse_attention(q, k, v, index, None, True, True, path=path)  # type: ignore[arg-type]
    assert got.lse is not None
    assert got.target is not None
    assert (got.out[1, :, 25:] == 0).all()
    assert (got.lse[1, :, 25:] == float("inf")).all()
    assert (got.target[1, 25:] == 0).all()
    grads = torch.autograd.grad(got.out.sum(), (q, k, v))
    assert all(bool(grad.isfinite().all()) for grad in grads)
    assert (grads[0][1, :, 25:] == 0).all()
    if path != "reference":
        same(path, index)


@pytest.mark.parametrize("path", ["reference", *PATHS])
def test_indices_that_are_invalid_or_in_the_future_are_ignored(path: str) -> None:
    indices = torch.tensor([[[-1, -1, -1], [0, 5, -1], [1, 2, 99], [3, 7, -1]]], dtype=torch.int32)
    clean = torch.tensor([[[-1, -1, -1], [0, -1, -1], [1, 2, -1], [3, -1, -1]]], dtype=torch.int32)
    q, k, v = heads(1, 2, 4, 4), heads(1, 1, 8, 4), heads(1, 1, 8, 4)
    dirty_out, clean_out = (
        sparse_attention(q, k, v, IndexSet(indices=i, queries=4, keys=8), path=path)  # type: ignore[arg-type]
        for i in (indices, clean)
    )
    torch.testing.assert_close(dirty_out.out, clean_out.out)
    assert (dirty_out.out[:, :, 0] == 0).all()


@pytest.mark.parametrize("path", PATHS)
def test_keys_that_nobody_selected_get_exactly_zero_gradient(path: str) -> None:
    index = token_set(1, 50, 50, 3)
    q, k, v = heads(1, 4, 50, 8), heads(1, 2, 50, 8), heads(1, 2, 50, 8)
    out = sparse_attention(q, k, v, index, path=path).out  # type: ignore[arg-type]
    dk, dv = torch.autograd.grad(out.square().sum(), (k, v))
    unselected = ~index.mask.any(1)[0]
    assert unselected.any()
    assert (dk[:, :, unselected] == 0).all()
    assert (dv[:, :, unselected] == 0).all()


@pytest.mark.parametrize("block", [False, True])
def test_the_gather_gradient_passes_gradcheck_in_float64(block: bool) -> None:
    index = block_set(1, 10, 8, 4, 4) if block else token_set(1, 6, 9, 4)
    inputs = heads(1, 2, index.queries, 3), heads(1, 1, index.keys, 3), heads(1, 1, index.keys, 2)
    assert torch.autograd.gradcheck(
        lambda q, k, v: gathering.attention(q, k, v, index, 0.5).out, inputs
    )


def test_the_inverse_map_lists_exactly_the_rows_that_selected_each_key() -> None:
    index = token_set(2, 30, 30, 5)
    mask = index.mask
    for entry in range(2 * 30):
        first, last = index.inverse.offsets[entry : entry + 2].tolist()
        rows = mask[entry // 30, :, entry % 30].nonzero()[:, 0].tolist()
        assert index.inverse.rows[first:last].tolist() == rows


def test_the_path_that_ran_is_shown_with_its_reason() -> None:
    forget()
    q, k, v = heads(1, 4, 64, 4), heads(1, 1, 64, 4), heads(1, 1, 64, 4)
    for topk, path in ((64, "dense"), (32, "dense"), (4, "gather")):
        sparse_attention(q, k, v, token_set(1, 64, 64, topk))
        (choice,) = explain("index_cache.sparse_attention")
        assert choice.path == path
    assert "above the break-even" in choice.reason


def test_triton_on_the_cpu_is_an_error_not_a_silent_fallback() -> None:
    q = heads(1, 1, 4, 4)
    with pytest.raises(ValueError, match="triton path cannot run"):
        sparse_attention(q, q, q, token_set(1, 4, 4, 2), path="triton")


def test_shapes_that_do_not_fit_the_index_are_refused() -> None:
    q, k = heads(1, 4, 5, 4), heads(1, 3, 5, 4)
    with pytest.raises(ValueError, match="do not fit"):
        sparse_attention(q, k, k, token_set(1, 5, 5, 2))
    with pytest.raises(ValueError, match="an index for"):
        sparse_attention(q, q, q, token_set(1, 6, 6, 2))
