"""The paired sequential test: what it keeps, drops, refuses and reports."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nightlab.errors import UsageError
from nightlab.evals.statistics import (
    Estimate,
    FalseKeepBudget,
    Judgement,
    NoiseFloor,
    PairedRule,
    PairedTest,
    lower_confidence_bound,
)

FLOOR = NoiseFloor.measure("small", [3.50, 3.512, 3.488, 3.504, 3.496])
gains = st.lists(st.floats(-1, 1), min_size=1, max_size=8)


def play(test: PairedTest, stream: list[float]) -> PairedTest:
    """Feed pairs until the test ends."""
    for gain in stream:
        if test.judgement is not Judgement.CONTINUE:
            break
        test = test.add(gain)
    return test


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_without_a_noise_floor_it_is_the_ordinary_t_test(stream: list[float]) -> None:
    data = np.asarray(stream)
    rule = PairedRule(max_prior_df=0)
    now = rule.moderate(data, FLOOR.paired_sd, FLOOR.paired_df)
    assert float(now.sd) == pytest.approx(data.std(ddof=1), abs=1e-12)
    if data.std() > 1e-6:
        classic = stats.ttest_1samp(data, 0.0).statistic
        assert float(now.mean / now.error) == pytest.approx(float(classic), rel=1e-6, abs=1e-9)


def test_the_moderated_spread_is_the_weighted_mean_of_both_variances() -> None:
    data = np.array([0.0, 0.1, 0.2])
    now = PairedRule(variance_ratio=1.0).moderate(data, 0.05, 4)
    assert float(now.sd) ** 2 == pytest.approx((4 * 0.05**2 + 2 * 0.01) / 6)
    assert float(now.df) == 6


def test_the_floor_is_widened_for_a_noisier_challenger_and_never_drowns_its_own_pairs() -> None:
    data = np.array([0.0, 0.1, 0.2])
    now = PairedRule(variance_ratio=2.0, max_prior_df=8).moderate(data, 0.05, 500)
    assert float(now.sd) ** 2 == pytest.approx((8 * 1.5 * 0.05**2 + 2 * 0.01) / 10)
    assert float(now.df) == 10


@given(gains)
def test_a_test_ends_in_a_keep_or_a_drop_by_its_last_pair(stream: list[float]) -> None:
    test = play(PairedTest(noise=FLOOR, alpha=0.01), (stream * 8)[:8])
    assert test.judgement is not Judgement.CONTINUE
    with pytest.raises(UsageError):
        test.add(0.0)


@given(gains)
def test_nothing_is_kept_before_the_least_number_of_pairs_or_below_the_least_effect(
    stream: list[float],
) -> None:
    rule = PairedRule(min_effect=0.2)
    test = play(PairedTest(noise=FLOOR, alpha=0.1, rule=rule), stream)
    if test.judgement is Judgement.KEEP:
        assert len(test.gains) >= rule.min_pairs
        assert np.mean(test.gains) >= 0.2


@given(gains, st.floats(0, 1))
def test_a_uniformly_better_stream_is_never_judged_worse(stream: list[float], more: float) -> None:
    rank = {Judgement.DROP: 0, Judgement.CONTINUE: 1, Judgement.KEEP: 2}
    worse = PairedTest(noise=FLOOR, alpha=0.01, gains=tuple(stream))
    better = PairedTest(noise=FLOOR, alpha=0.01, gains=tuple(gain + more for gain in stream))
    assert rank[better.judgement] >= rank[worse.judgement]


@given(gains, st.floats(1e-6, 0.5), st.floats(1e-6, 0.5))
def test_a_smaller_level_never_keeps_more(stream: list[float], a: float, b: float) -> None:
    strict = PairedTest(noise=FLOOR, alpha=min(a, b), gains=tuple(stream))
    loose = PairedTest(noise=FLOOR, alpha=max(a, b), gains=tuple(stream))
    assert strict.judgement is not Judgement.KEEP or loose.judgement is Judgement.KEEP


@given(gains, st.floats(1e-3, 1e3))
def test_the_unit_of_the_metric_does_not_matter(stream: list[float], unit: float) -> None:
    floor = NoiseFloor.measure("small", [unit * x for x in (3.50, 3.512, 3.488, 3.504, 3.496)])
    here = PairedTest(noise=FLOOR, alpha=0.01, gains=tuple(stream))
    there = PairedTest(noise=floor, alpha=0.01, gains=tuple(unit * gain for gain in stream))
    if min(abs(here.p_value() - bar) for bar in (0.01 / 6, 0.5)) > 1e-6:
        assert here.judgement is there.judgement


@pytest.mark.parametrize("gain", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("j", [1, 15, 60])
def test_a_gain_of_ten_sigmas_is_kept_after_three_pairs_even_late(gain: float, j: int) -> None:
    rng = np.random.default_rng(j)
    kept_at_three = 0
    for _ in range(100):
        earlier = rng.normal(0, 0.01 * math.sqrt(2), (j - 1, 2)).tolist()
        floor = NoiseFloor.measure("small", rng.normal(3.5, 0.01, 5).tolist()).with_pairs(*earlier)
        test = PairedTest(noise=floor, alpha=FalseKeepBudget().alpha(j))
        test = play(test, rng.normal(gain, 0.01 * math.sqrt(2), 8).tolist())
        assert test.judgement is Judgement.KEEP
        kept_at_three += len(test.gains) == 3
    assert kept_at_three >= 95


def test_a_challenger_that_fails_on_a_fresh_seed_is_dropped_at_once() -> None:
    test = PairedTest(noise=FLOOR, alpha=0.1).add(-math.inf)
    assert test.judgement is Judgement.DROP


@pytest.mark.parametrize("gain", [math.nan, math.inf])
def test_a_gain_that_is_no_number_is_refused(gain: float) -> None:
    with pytest.raises(UsageError):
        PairedTest(noise=FLOOR, alpha=0.1).add(gain)


def test_a_clear_loser_costs_two_pairs_only() -> None:
    test = PairedTest(noise=FLOOR, alpha=0.01).add(-0.05)
    assert test.judgement is Judgement.CONTINUE
    assert test.add(-0.05).judgement is Judgement.DROP


def test_a_test_that_looks_after_every_pair_still_keeps_its_level() -> None:
    rng = np.random.default_rng(5)
    alpha, size = 0.05, 20_000
    floors = math.sqrt(2) * rng.standard_normal((size, 5)).std(axis=1, ddof=1)
    stream = math.sqrt(2) * rng.standard_normal((size, 8))
    rule = PairedRule(variance_ratio=1.0, futility=0.0)
    kept = np.zeros(size, dtype=bool)
    for n in range(3, 9):
        kept |= rule.judge(stream[:, :n], alpha, floors, 4) > 0
    assert 0.25 * alpha < kept.mean() <= alpha


def test_the_test_without_its_correction_for_looks_would_break_the_level() -> None:
    rng = np.random.default_rng(6)
    size = 20_000
    stream = math.sqrt(2) * rng.standard_normal((size, 8))
    rule = PairedRule(variance_ratio=1.0, futility=0.0)
    kept = np.zeros(size, dtype=bool)
    for n in range(3, 9):
        kept |= rule.judge(stream[:, :n], 0.05 * rule.looks, math.sqrt(2), 8) > 0
    assert kept.mean() > 0.06


def test_the_reported_interval_holds_the_truth_although_the_test_chose_when_to_stop() -> None:
    rng = np.random.default_rng(7)
    hits = total = 0
    for _ in range(400):
        floor = NoiseFloor.measure("small", rng.normal(3.5, 0.01, 5).tolist())
        test = PairedTest(noise=floor, alpha=0.02)
        test = play(test, rng.normal(0.03, 0.0141, 8).tolist())
        estimate = test.estimate()
        total += 1
        hits += estimate.low <= 0.03 <= estimate.high
    assert hits / total >= 0.95


def test_the_estimate_is_the_mean_of_the_fresh_pairs() -> None:
    estimate = PairedTest(noise=FLOOR, alpha=0.1, gains=(0.1, 0.2, 0.3)).estimate(0.9)
    assert isinstance(estimate, Estimate)
    assert estimate.mean == pytest.approx(0.2)
    assert estimate.pairs == 3
    assert estimate.confidence == 0.9
    assert estimate.low < 0.2 < estimate.high


def test_no_pair_means_no_estimate() -> None:
    with pytest.raises(UsageError):
        PairedTest(noise=FLOOR, alpha=0.1).estimate()
    with pytest.raises(UsageError):
        PairedTest(noise=FLOOR, alpha=0.1).p_value()


def test_one_lucky_trial_ranks_below_three_good_ones() -> None:
    rule = PairedRule()
    lucky = lower_confidence_bound([0.05], FLOOR, rule)
    steady = lower_confidence_bound([0.04, 0.045, 0.042], FLOOR, rule)
    assert lucky < steady < 0.0425
    assert lower_confidence_bound([0.05, -math.inf], FLOOR, rule) == -math.inf


def test_the_lower_bound_lies_below_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(8)
    rule = PairedRule(variance_ratio=1.0)
    below = 0
    for _ in range(1000):
        floor = NoiseFloor.measure("small", rng.normal(3.5, 0.01, 5).tolist())
        gain = float(rng.normal(0.02, 0.01 * math.sqrt(2)))
        below += lower_confidence_bound([gain], floor, rule) <= 0.02
    assert 870 <= below <= 930


@pytest.mark.parametrize(
    "change",
    [{"min_pairs": 1}, {"max_pairs": 2}, {"min_effect": -1.0}, {"variance_ratio": 0.5}],
)
def test_rules_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        PairedRule(**change)  # type: ignore[arg-type]
