"""Scoring and selection: exact, causal, deterministic on ties."""

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nightlab.kernels.choice import explain, forget
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


@pytest.mark.parametrize("queries", [1, 15, 16, 17, 63])
def test_every_query_of_a_block_set_sees_itself(queries: int) -> None:
    index = select_blocks(
        projections(2, queries, queries), 8, shape=BlockShape(block_q=16, block_k=8)
    )
    assert index.mask.diagonal(dim1=1, dim2=2).all()


def test_blocks_that_do_not_divide_one_another_are_refused() -> None:
    with pytest.raises(ValueError, match="divide"):
        BlockShape(block_q=64, block_k=48)
    with pytest.raises(ValueError, match="local"):
        BlockShape(local=0)


@pytest.mark.parametrize("rope", ["none", "half", "interleaved"])
def test_decoding_token_by_token_selects_what_a_whole_pass_selects(
    rope: Literal["none", "half", "interleaved"],
) -> None:
    indexer = LightningIndexer(16, 8, 8, topk=6, rope=rope).eval()
    x = torch.randn(2, 20, 16)
    whole = indexer.select(x)
    keys = KeyCache(2, 20, 8, x)
    for t in range(20):
        step = indexer.select(x[:, t : t + 1], keys=keys)
        chosen = [sorted(row[row >= 0].tolist()) for row in step.indices[:, 0]]
        assert chosen == [sorted(row[row >= 0].tolist()) for row in whole.indices[:, t]]
    with pytest.raises(ValueError, match="cache of 20"):
        keys.append(x[:, :1, :8])


def test_scoring_is_skipped_while_all_keys_fit_and_the_key_cache_still_grows() -> None:
    forget()
    indexer = LightningIndexer(16, 8, 8, topk=32)
    keys = KeyCache(1, 40, 8, torch.zeros(1))
    index = indexer.select(torch.randn(1, 30, 16), keys=keys)
    assert index.everything
    assert keys.length == 30
    assert explain("index_cache.indexer")[0].path == "skipped"


def test_one_index_head_ties_often_and_eight_rarely() -> None:
    ties = {}
    for heads in (1, 8):
        logits = reference.indexer_logits(*projections(1, 300, 300, heads=heads, width=32))
        top = logits.topk(16).values
        rows = logits.isfinite().sum(-1) > 16
        ties[heads] = float(
            (((logits == top[..., -1:]).sum(-1) > 1) & rows).float().sum() / rows.sum()
        )
    assert ties[1] > 0.1
    assert ties[8] < 0.02
