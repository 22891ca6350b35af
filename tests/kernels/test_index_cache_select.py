"""Scoring and selection: exact, causal, deterministic on ties."""

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nightlab.kernels.explain import explain, forget
from nightlab.kernels.index_cache import (
    BlockShape,
    KeyCache,
    Kind,
    LightningIndexer,
    Projections,
    reference,
    select_blocks,
    select_tokens,
    topk_select,
)

Pool = Literal["causal", "first", "tile"]
SCORES = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0, float("-inf")])


def projections(batch: int, queries: int, keys: int, heads: int = 8, width: int = 4) -> Projections:
    return Projections(
        torch.randn(batch, queries, heads, width),
        torch.randn(batch, keys, width),
        torch.randn(batch, queries, heads),
    )


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(SCORES, min_size=9, max_size=9), min_size=1, max_size=5),
    topk=st.integers(1, 12),
)  # fmt: skip
def test_ties_go_to_the_lowest_index_and_nothing_masked_is_chosen(
    rows: list[list[float]], topk: int
) -> None:
    chosen = topk_select(torch.tensor([rows]), topk)[0].tolist()
    for row, picked in zip(rows, chosen, strict=True):
        order = sorted(range(9), key=lambda i: (-row[i], i))
        want = sorted(i for i in order[:topk] if row[i] > float("-inf"))
        assert picked == want + [-1] * (len(picked) - len(want))


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 2),
    queries=st.integers(1, 70),
    past=st.integers(0, 40),
    topk=st.integers(1, 90),
)
def test_selected_tokens_are_those_of_the_specification(
    batch: int, queries: int, past: int, topk: int
) -> None:
    made = projections(batch, queries, queries + past)
    got = select_tokens(made, topk, past)
    want = reference.topk_select(reference.indexer_logits(*made, past), topk)
    assert torch.equal(got.indices, want)


def test_chunks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = projections(2, 100, 100)
    whole = select_tokens(made, 9)
    monkeypatch.setattr("nightlab.kernels.index_cache.select.CHUNK_FLOATS", 1 << 13)
    assert torch.equal(select_tokens(made, 9).indices, whole.indices)


def test_selection_repeats_bit_for_bit() -> None:
    made = projections(1, 200, 200, heads=1)
    first = select_tokens(made, 20).indices
    assert all(torch.equal(select_tokens(made, 20).indices, first) for _ in range(20))


def block_scores(made: Projections, shape: BlockShape, queries: int) -> Tensor:
    """The specification of pooled scores, one tile and block at a time."""
    logits = reference.indexer_logits(*made)
    rows, blocks = -(-queries // shape.block_q), -(-queries // shape.block_k)
    scores = torch.full((1, rows, blocks), float("-inf"))
    for row in range(rows):
        first = row * shape.block_q
        pooled = {
            "causal": slice(max(0, first - shape.block_q + 1), first + 1),
            "first": slice(first, first + 1),
            "tile": slice(first, first + shape.block_q),
        }[shape.pool]
        for block in range(blocks):
            keys = slice(block * shape.block_k, (block + 1) * shape.block_k)
            scores[0, row, block] = logits[0, pooled, keys].max()
            last = min(first + shape.block_q, queries) - 1
            if first // shape.block_k - shape.local < block or block < shape.sink:
                scores[0, row, block] = float("inf")
            if block * shape.block_k > last:
                scores[0, row, block] = float("-inf")
    return scores


@pytest.mark.parametrize("pool", ["causal", "first", "tile"])
@pytest.mark.parametrize(("block_q", "block_k"), [(16, 16), (16, 8), (8, 16)])
@pytest.mark.parametrize("queries", [63, 100])
def test_selected_blocks_are_those_of_the_specification(
    pool: Pool, block_q: int, block_k: int, queries: int
) -> None:
    shape = BlockShape(block_q=block_q, block_k=block_k, local=2, sink=1, pool=pool)
    made = projections(1, queries, queries)
    got = select_blocks(made, 5 * block_k, shape=shape)
    assert got.kind is Kind.BLOCK
    assert torch.equal(got.indices, reference.topk_select(block_scores(made, shape, queries), 5))


@pytest.mark.parametrize("pool", ["causal", "first"])
def test_a_later_token_never_changes_an_earlier_querys_keys(pool: Pool) -> None:
    shape = BlockShape(block_q=16, block_k=8, pool=pool)
    made = projections(1, 96, 96)
    before = select_blocks(made, 24, shape=shape).mask
    for cut in (1, 40, 79):
        changed = Projections(*(x.clone() for x in made))
        for x in changed:
            x[:, cut:] = torch.randn_like(x[:, cut:])
        after = select_blocks(changed, 24, shape=shape).mask
        assert torch.equal(before[:, :cut], after[:, :cut])


def test_pooling_over_a_tiles_own_queries_is_known_to_look_ahead() -> None:
    shape = BlockShape(block_q=16, block_k=8, pool="tile")

    def moved(seed: int) -> bool:
        """Whether a change of the last token moves what earlier queries select."""
        torch.manual_seed(seed)
        made = projections(1, 96, 96)
        before = select_blocks(made, 24, shape=shape).mask
        made.q[:, 95] *= 100
        made.w[:, 95] = made.w[:, 95].abs()
        return not torch.equal(before[:, :95], select_blocks(made, 24, shape=shape).mask[:, :95])

    assert any(moved(seed) for seed in range(10))
