"""Promotion between rungs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.errors import UsageError
from nightlab.evals.rungs import (
    MIN_PROGRAMS,
    RungLink,
    even_share,
    margins,
    promotable,
    promoted_share,
)
from nightlab.evals.statistics import ScreenRule

names = st.text("abcdef", min_size=1, max_size=4)


def test_the_promoted_share_loses_as_much_of_the_best_as_it_says() -> None:
    rng = np.random.default_rng(0)
    pearson = 2 * math.sin(math.pi * 0.6 / 6)
    high = rng.standard_normal(200_000)
    low = pearson * high + math.sqrt(1 - pearson**2) * rng.standard_normal(high.size)
    share = promoted_share(0.6, eta=3.0, miss=0.1)
    best = high >= np.quantile(high, 1 - 1 / 3)
    promoted = low >= np.quantile(low, 1 - share)
    assert (best & ~promoted).sum() / best.sum() == pytest.approx(0.1, abs=0.005)


@given(st.floats(0, 1), st.floats(0, 1))
def test_rungs_that_agree_less_promote_more(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert promoted_share(low) >= promoted_share(high) - 1e-9


def test_the_share_runs_from_all_but_the_allowed_loss_to_the_plain_asha_cut() -> None:
    assert promoted_share(0.0, eta=4, miss=0.1) == pytest.approx(0.9, abs=1e-6)
    assert promoted_share(1.0, eta=4, miss=0.1) == pytest.approx(0.9 / 4, abs=0.01)


@pytest.mark.parametrize("arguments", [(-0.1, 3, 0.1), (0.5, 1, 0.1), (0.5, 3, 0.0)])
def test_a_share_out_of_range_is_refused(arguments: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError):
        promoted_share(*arguments)


def test_the_interval_of_the_rank_correlation_holds_the_truth() -> None:
    rng = np.random.default_rng(1)
    pearson = 2 * math.sin(math.pi * 0.6 / 6)
    hits = 0
    for _ in range(400):
        high = rng.standard_normal(15)
        low = pearson * high + math.sqrt(1 - pearson**2) * rng.standard_normal(15)
        link = RungLink.measure(low.tolist(), high.tolist())
        hits += link.low <= 0.6 <= link.high
    assert hits >= 370


def test_few_programs_plan_with_a_pessimistic_correlation_and_many_with_the_measured_one() -> None:
    ranks = [float(rank) for rank in range(40)]
    assert RungLink.measure(ranks[:6], ranks[:6]).trusted == 0.4
    assert RungLink.measure(ranks, ranks).trusted > 0.99
    assert RungLink.measure(ranks, ranks[::-1]).trusted == 0.0


def test_a_rung_on_which_all_are_equal_says_nothing() -> None:
    link = RungLink.measure([1.0] * 10, [float(rank) for rank in range(10)])
    assert math.isnan(link.correlation)
    assert (link.low, link.high, link.trusted) == (-1.0, 1.0, 0.4)


def test_a_link_needs_finite_gains_of_the_same_programs() -> None:
    with pytest.raises(UsageError):
        RungLink.measure([1.0], [1.0, 2.0])
    with pytest.raises(UsageError):
        RungLink.measure([1.0, -math.inf], [1.0, 2.0])


@given(st.dictionaries(names, st.floats(-1, 1), max_size=20), st.floats(0.05, 1.0))
def test_only_the_best_share_is_promoted_and_nobody_twice(
    gains: dict[str, float], share: float
) -> None:
    first = promotable(gains, (), share)
    assert len(first) == math.floor(len(gains) * share + 1e-9)
    assert promotable(gains, first, share) == ()
    left = [gain for name, gain in gains.items() if name not in first]
    assert all(gains[name] >= gain for name in first for gain in left)


@given(st.floats(0.001, 3.0), st.floats(0.001, 3.0), st.integers(1, 200))
def test_an_even_share_splits_the_budget_in_halves_within_one_price(
    look: float, price: float, looks: int
) -> None:
    lower = higher = 0.0
    for _ in range(looks):
        lower += look
        while even_share(lower, higher, price):
            higher += price
    assert lower - price <= higher + 1e-6
    assert higher <= lower + 1e-6


def test_promotion_does_not_wait_for_the_rung_to_fill() -> None:
    gains = {"a": 0.1, "b": 0.0}
    assert promotable(gains, (), 0.4) == ()
    gains["c"] = 0.3
    assert promotable(gains, (), 0.4) == ("c",)
    gains |= {"d": 0.2, "e": -0.1}
    assert promotable(gains, ("c",), 0.4) == ("d",)


def test_a_failed_trial_is_never_promoted() -> None:
    assert promotable({"a": -math.inf, "b": 0.1}, (), 1.0) == ("b",)


def linked(correlation: float, programs: int = 30) -> RungLink:
    return RungLink(correlation=correlation, low=correlation, high=correlation, programs=programs)


def test_one_rung_screens_with_the_full_margins() -> None:
    assert margins(None, ScreenRule()) == ScreenRule()


def test_margins_are_wide_until_enough_programs_ran_on_both_rungs() -> None:
    few = margins(linked(0.99, MIN_PROGRAMS - 1), ScreenRule())
    many = margins(linked(0.99, MIN_PROGRAMS), ScreenRule())
    assert few.margins == (0.25, 0.5)
    assert many.margins == pytest.approx((0.5, 1.0), rel=0.02)


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_rungs_that_rank_alike_have_the_narrower_margins(a: float, b: float) -> None:
    low, high = sorted((a, b))
    wide, narrow = (margins(linked(r), ScreenRule()).margins for r in (low, high))
    assert all(w <= n for w, n in zip(wide, narrow, strict=True))
    assert 0.25 <= wide[0] <= 0.5
