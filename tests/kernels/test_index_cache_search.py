"""Greedy search and overlap."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.kernels.index_cache import (
    IndexPattern,
    IndexSet,
    Kind,
    Projections,
    greedy_search,
    overlap,
    overlap_pattern,
    select_tokens,
)


class CascadingLoss:
    """Loss of a pattern: each layer pays for its distance to its source, and errors build up."""

    def __init__(self, n: int, seed: int, drift: float = 0.0) -> None:
        draw = random.Random(seed)
        self.change = [draw.lognormvariate(0, 1) for _ in range(n)]
        self.noise, self.drift, self.calls = draw.random(), drift, 0

    def __call__(self, pattern: IndexPattern) -> float:
        self.calls += 1
        error, total = 0.0, 0.0
        for layer in range(len(pattern)):
            source = pattern.source(layer)
            error += sum(self.change[source + 1 : layer + 1]) / len(pattern)
            total += error
        wobble = random.Random(f"{pattern}{self.noise}").uniform(-1, 1) * self.drift
        return 1.0 + 0.01 * total * (1 + wobble)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 14), seed=st.integers(0, 999), data=st.data())
def test_full_greedy_commits_the_layer_that_hurts_least(
    n: int, seed: int, data: st.DataObject
) -> None:
    keep = data.draw(st.integers(1, n))
    loss = CascadingLoss(n, seed)
    found = greedy_search(loss, n, keep, lazy=False)
    pattern = IndexPattern.all_full(n)
    for step in found.steps:
        options = {layer: loss(pattern.with_shared(layer)) for layer in pattern.full_layers[1:]}
        assert step.loss == min(options.values())
        pattern = step.pattern
    assert len(pattern.full_layers) == keep


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 14), seed=st.integers(0, 999))
def test_patterns_of_one_search_are_nested(n: int, seed: int) -> None:
    found = greedy_search(CascadingLoss(n, seed), n, 1)
    for keep in range(1, n):
        assert set(found.at(keep).full_layers) < set(found.at(keep + 1).full_layers)
        assert len(found.at(keep).full_layers) == keep


@pytest.mark.parametrize("seed", range(5))
def test_lazy_greedy_finds_the_full_pattern_with_under_3n_evaluations(seed: int) -> None:
    n, keep = 47, 12
    full = greedy_search(CascadingLoss(n, seed), n, keep, lazy=False)
    lazy = greedy_search(CascadingLoss(n, seed), n, keep)
    assert full.evaluations > 1000
    assert lazy.evaluations < 3 * n
    assert lazy.pattern == full.pattern


def test_lazy_greedy_on_a_noisy_loss_costs_a_few_percent_on_average() -> None:
    n, keep, ratios = 47, 12, []
    for seed in range(6):
        true = CascadingLoss(n, seed)
        full = greedy_search(CascadingLoss(n, seed, 0.02), n, keep, lazy=False)
        lazy = greedy_search(CascadingLoss(n, seed, 0.02), n, keep)
        assert lazy.evaluations < 3 * n
        ratios.append((true(lazy.pattern) - 1) / (true(full.pattern) - 1))
    assert sum(ratios) / len(ratios) < 1.03
    assert max(ratios) < 1.1


def test_evaluations_are_counted_and_fixed_layers_stay_full() -> None:
    loss = CascadingLoss(8, 0)
    found = greedy_search(loss, 8, 3, fixed=(4,))
    assert found.evaluations == loss.calls
    assert found.pattern.is_full(4)
    with pytest.raises(ValueError, match=r"keep is in 2\.\.8"):
        greedy_search(loss, 8, 1, fixed=(4,))


def random_set(seed: int, topk: int = 16, length: int = 200) -> IndexSet:
    torch.manual_seed(seed)
    made = Projections(
        torch.randn(1, length, 8, 16), torch.randn(1, length, 16), torch.randn(1, length, 8)
    )
    return select_tokens(made, topk)


def test_independent_selections_overlap_by_chance_and_equal_ones_fully() -> None:
    a, b = random_set(0), random_set(1)
    assert overlap(a, a).shared == 1.0
    assert overlap(a, a).excess == pytest.approx(1.0)
    between = overlap(a, b)
    assert between.shared == pytest.approx(between.chance, abs=0.03)


def test_overlap_counts_only_rows_that_had_a_choice() -> None:
    a = IndexSet(indices=torch.tensor([[[0, -1], [0, 1], [0, 1]]]).int(), queries=3, keys=3)
    b = IndexSet(indices=torch.tensor([[[0, -1], [0, 1], [1, 2]]]).int(), queries=3, keys=3)
    found = overlap(a, b)
    assert found.shared == pytest.approx(1 / 2)
    assert found.chance == pytest.approx(2 / 3)


def test_overlap_of_sets_of_different_kinds_is_refused() -> None:
    a = random_set(0)
    b = IndexSet(
        indices=torch.zeros(1, 25, 1).int(),
        queries=200,
        keys=200,
        kind=Kind.BLOCK,
        block_q=8,
        block_k=8,
    )
    with pytest.raises(ValueError, match="same rows"):
        overlap(a, b)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 8), seed=st.integers(0, 99), data=st.data())
def test_the_overlap_pattern_is_the_best_of_all_patterns(
    n: int, seed: int, data: st.DataObject
) -> None:
    keep = data.draw(st.integers(1, n))
    similarity = torch.rand(n, n, generator=torch.Generator().manual_seed(seed))

    def worth(pattern: IndexPattern) -> float:
        return sum(float(similarity[pattern.source(j), j]) for j in range(n))

    every = [
        IndexPattern("F" + format(bits, f"0{n}b")[1:].replace("1", "F").replace("0", "S"))
        for bits in range(1 << (n - 1))
    ]
    best = max(worth(p) for p in every if len(p.full_layers) == keep)
    assert worth(overlap_pattern(similarity, keep)) == pytest.approx(best, abs=1e-6)
