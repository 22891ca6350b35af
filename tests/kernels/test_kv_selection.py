"""Selection keeps exactly what it may, what it must, and the same rows every time."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nightlab.kernels.kv.selection import (
    even_lengths,
    global_lengths,
    head_lengths,
    max_pool,
    pyramid_budgets,
    select_rows,
)

T = 37


def scores(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(2, 3, T, generator=torch.Generator().manual_seed(seed)).to(dtype)


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1000),
        "budget": st.integers(0, T + 5),
        "sinks": st.integers(0, 6),
        "recent": st.integers(0, 12),
        "pool": st.sampled_from([1, 3, 7]),
    }
)


@given(cases)
@settings(max_examples=60, deadline=None)
def test_every_head_keeps_exactly_its_budget_once_and_in_order(case: dict[str, int]) -> None:
    s = scores(case["seed"])
    lengths = even_lengths(s, case["budget"])
    kept = select_rows(s, lengths, sinks=case["sinks"], recent=case["recent"], pool=case["pool"])
    want = min(case["budget"], T)
    assert kept.index.shape == (6 * want,)
    rows = kept.index.view(6, want)
    assert bool((rows.diff(dim=1) > 0).all())
    assert bool((kept.mask(T).sum(dim=-1) == want).all())


@given(cases)
@settings(max_examples=60, deadline=None)
def test_forced_rows_stay_whenever_the_budget_allows(case: dict[str, int]) -> None:
    s = scores(case["seed"])
    s[:, :, :] *= torch.where(torch.arange(T) < 20, float("inf"), 1.0)
    s = s.nan_to_num(posinf=float("inf"))
    sinks, recent = case["sinks"], case["recent"]
    mask = select_rows(s, even_lengths(s, case["budget"]), sinks=sinks, recent=recent).mask(T)
    if case["budget"] >= sinks + recent:
        assert bool(mask[..., :sinks].all())
        assert bool(mask[..., T - recent :].all())
    else:
        assert bool(mask[..., : min(sinks, case["budget"])].all())


@given(st.integers(0, 1000), st.integers(4, T), st.integers(4, T))
@settings(max_examples=40, deadline=None)
def test_a_smaller_budget_keeps_a_subset(seed: int, a: int, b: int) -> None:
    s = scores(seed, torch.bfloat16)
    few, many = (select_rows(s, even_lengths(s, c), sinks=2, recent=2) for c in sorted((a, b)))
    assert bool((~few.mask(T) | many.mask(T)).all())


@given(st.integers(0, 200), st.integers(1, T))
@settings(max_examples=30, deadline=None)
def test_ties_go_to_the_lower_position(seed: int, budget: int) -> None:
    s = (scores(seed) * 3).floor()
    mask = select_rows(s, even_lengths(s, budget)).mask(T)
    for head, stays in zip(s.flatten(0, 1), mask.flatten(0, 1), strict=True):
        best = sorted(range(T), key=lambda j: (-head[j].item(), j))[:budget]
        assert sorted(best) == stays.nonzero().flatten().tolist()


@given(st.integers(0, 200), st.integers(1, T), st.sampled_from([0.0, 0.2, 1.0]))
@settings(max_examples=40, deadline=None)
def test_head_budgets_spend_the_layer_exactly_and_respect_the_floor(
    seed: int, budget: int, floor: float
) -> None:
    lengths = head_lengths(scores(seed), budget, floor=floor)
    assert lengths.sum(dim=1).tolist() == [3 * budget] * 2
    assert int(lengths.min()) >= int(floor * budget)
    assert int(lengths.max()) <= T


def test_head_budgets_follow_the_scores() -> None:
    s = torch.zeros(1, 2, T)
    s[0, 1, :10] = 1.0
    # Each keeps 2; the second head's other 8 large scores win 8 of the 12 free rows, the
    # remaining 4 are ties of zeros, which go to the first head.
    assert head_lengths(s, 8, floor=0.25).tolist() == [[6, 10]]


@given(st.integers(0, 200), st.integers(1, T))
@settings(max_examples=30, deadline=None)
def test_one_threshold_for_the_whole_model_spends_its_budget_exactly(seed: int, c: int) -> None:
    lengths = global_lengths([scores(seed), 2 * scores(seed + 1)], c)
    assert torch.stack(lengths).sum(dim=(0, 2)).tolist() == [6 * c] * 2


@given(st.integers(1, 12), st.integers(0, 400), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_layer_budgets_fall_with_depth_and_keep_their_mean(layers: int, c: int, w: int) -> None:
    budgets = pyramid_budgets(layers, c, w, 400)
    assert sum(budgets) == layers * c
    assert max(budgets) <= 400
    assert all(a + 1 >= b for a, b in pairwise(budgets))
    assert min(budgets) >= min(c, w)


def test_pooling_is_the_maximum_of_neighbours() -> None:
    s = torch.tensor([[[0.0, 1.0, 0.0, 0.0, 0.5]]])
    assert max_pool(s, 3).tolist() == [[[1.0, 1.0, 1.0, 0.5, 0.5]]]
    assert torch.equal(max_pool(s, 1), s)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_ties_are_kept_the_same_way_every_time(dtype: torch.dtype) -> None:
    s = (torch.rand(1, 2, 4096, generator=torch.Generator().manual_seed(0)) * 0.1 + 1).to(dtype)
    assert len(set(s.flatten().tolist())) < 1000
    first = select_rows(s, even_lengths(s, 500))
    flipped = select_rows(s.flip(1), even_lengths(s, 500))
    assert torch.equal(first.mask(4096), flipped.mask(4096).flip(1))
