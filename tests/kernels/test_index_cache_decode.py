"""One query against a long cache."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.kernels.index_cache import (
    BlockShape,
    IndexSet,
    Projections,
    reference,
    select_blocks,
    select_tokens,
    sparse_attention_decode,
)
from nightlab.kernels.index_cache.decode import DecodePath


def newest(batch: int, keys: int, topk: int, block: bool) -> IndexSet:
    made = Projections(
        torch.randn(batch, 1, 8, 4), torch.randn(batch, keys, 4), torch.randn(batch, 1, 8)
    )
    if block:
        shape = BlockShape(block_q=1, block_k=8)
        return select_blocks(made, topk, keys - 1, shape=shape)
    return select_tokens(made, topk, keys - 1)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3), keys=st.integers(1, 70), topk=st.integers(1, 40),
    kv=st.sampled_from([1, 2, 4]), splits=st.integers(1, 9), block=st.booleans(),
    path=st.sampled_from(["reference", "gather"]),
)  # fmt: skip
def test_decode_equals_the_specification_for_any_split(
    batch: int, keys: int, topk: int, kv: int, splits: int, block: bool, path: DecodePath
) -> None:
    index = newest(batch, keys, topk, block)
    q, k, v = (
        torch.randn(batch, 4, 1, 8),
        torch.randn(batch, kv, keys, 8),
        torch.randn(batch, kv, keys, 6),
    )
    want = reference.attention(q, k, v, index, 8**-0.5).out
    got = sparse_attention_decode(q, k, v, index, splits=splits, path=path)
    torch.testing.assert_close(got, want)


def test_a_cache_with_room_to_grow_decodes_like_an_exact_one() -> None:
    index = newest(1, 50, 12, block=False)
    q, room = torch.randn(1, 4, 1, 8), torch.randn(1, 2, 90, 8)
    k = v = room[:, :, :50]
    exact = sparse_attention_decode(q, k.contiguous(), v.contiguous(), index)
    torch.testing.assert_close(sparse_attention_decode(q, k, v, index), exact)


@pytest.mark.parametrize("path", ["reference", "gather"])
def test_a_row_without_a_valid_key_decodes_to_zero(path: DecodePath) -> None:
    index = IndexSet(indices=torch.full((1, 1, 5), -1).int(), queries=1, keys=9, q_offset=8)
    q, k = torch.randn(1, 2, 1, 4), torch.randn(1, 2, 9, 4)
    assert (sparse_attention_decode(q, k, k, index, path=path) == 0).all()


def test_more_than_one_query_is_refused() -> None:
    index = select_tokens(
        Projections(torch.randn(1, 2, 8, 4), torch.randn(1, 9, 4), torch.randn(1, 2, 8)), 3, 7
    )
    q, k = torch.randn(1, 2, 2, 4), torch.randn(1, 2, 9, 4)
    with pytest.raises(ValueError, match="one query"):
        sparse_attention_decode(q, k, k, index)
