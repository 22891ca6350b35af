"""The noise floor, the screening rule and the false-keep budget."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.errors import UsageError
from nightlab.evals.statistics import (
    FalseKeepBudget,
    NoiseFloor,
    Screening,
    ScreenRule,
    screen,
)

values = st.lists(st.floats(-100, 100), min_size=3, max_size=12)


@given(values)
def test_one_program_gives_the_textbook_mean_and_standard_deviation(scores: list[float]) -> None:
    floor = NoiseFloor.measure("small", scores)
    assert floor.mean == pytest.approx(np.mean(scores))
    assert floor.sd == pytest.approx(np.std(scores, ddof=1), abs=1e-9)
    assert floor.paired_sd == pytest.approx(math.sqrt(2) * floor.sd)
    assert (floor.n, floor.df) == (len(scores), len(scores) - 1)


@given(values, st.floats(-50, 50))
def test_a_better_second_program_does_not_look_like_noise(
    scores: list[float], shift: float
) -> None:
    once = NoiseFloor.measure("small", scores)
    twice = NoiseFloor.measure("small", scores, [score + shift for score in scores])
    assert twice.sd == pytest.approx(once.sd, rel=1e-6, abs=1e-6)
    assert twice.df == 2 * once.df


def test_the_interval_of_the_sd_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for scores in rng.normal(3.5, 0.01, (1000, 5)):
        low, high = NoiseFloor.measure("small", scores.tolist()).sd_interval()
        hits += low <= 0.01 <= high
    assert 930 <= hits <= 970


def test_the_interval_of_the_mean_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for scores in rng.normal(3.5, 0.01, (1000, 5)):
        low, high = NoiseFloor.measure("small", scores.tolist()).mean_interval()
        hits += low <= 3.5 <= high
    assert 930 <= hits <= 970


@pytest.mark.parametrize("scores", [[], [1.0, 2.0], [1.0, 2.0, math.nan], [1.0, 2.0, math.inf]])
def test_too_few_or_failed_trials_are_refused(scores: list[float]) -> None:
    with pytest.raises(UsageError):
        NoiseFloor.measure("small", scores)


def test_a_metric_that_never_varies_still_has_a_spread_to_divide_by() -> None:
    floor = NoiseFloor.measure("small", [1e6] * 5)
    assert 0 < floor.paired_sd < 1e-3


def test_finished_comparisons_correct_a_floor_that_was_measured_too_low() -> None:
    rng = np.random.default_rng(3)
    floor = NoiseFloor.measure("small", [3.500, 3.501, 3.499, 3.5005, 3.4995])
    pairs = [rng.normal(gain, 0.001, 4).tolist() for gain in (0.0, 0.3, -0.1) * 10]
    refined = floor.with_pairs(*pairs)
    assert refined.paired_df == floor.df + 90
    assert refined.paired_sd == pytest.approx(0.001, rel=0.2)
    assert refined.sd == floor.sd


def test_one_unstable_challenger_cannot_blind_the_campaign() -> None:
    floor = NoiseFloor.measure("small", [3.50, 3.51, 3.49, 3.505, 3.495])
    assert floor.with_pairs([0.0, 50.0, -40.0]).paired_sd < 2 * floor.paired_sd
    unchanged = floor.with_pairs([0.1], [0.2, -math.inf])
    assert unchanged.paired_sd == pytest.approx(floor.paired_sd)
    assert unchanged.paired_df == floor.paired_df


@given(st.floats(0.01, 1.0), st.floats(1.1, 3.0), st.integers(1, 200))
def test_the_levels_fall_and_never_sum_to_more_than_the_budget(
    total: float, exponent: float, n: int
) -> None:
    budget = FalseKeepBudget(total=total, exponent=exponent)
    assert budget.alpha(n + 1) < budget.alpha(n)
    assert budget.spent(n) <= total * (1 + 1e-12)


def test_the_levels_sum_to_the_whole_budget_in_the_limit() -> None:
    budget = FalseKeepBudget(total=0.25, exponent=2.0)
    assert budget.alpha(1) == pytest.approx(0.25 * 6 / math.pi**2)
    assert budget.spent(5000) == pytest.approx(0.25, rel=2e-4)


def test_a_budget_that_cannot_be_bounded_is_refused() -> None:
    with pytest.raises(UsageError):
        FalseKeepBudget(exponent=1.0)
    with pytest.raises(UsageError):
        FalseKeepBudget().alpha(0)


FLOOR = NoiseFloor.measure("small", [3.50, 3.51, 3.49, 3.505, 3.495])


@pytest.mark.parametrize(
    ("sigmas", "expected"),
    [
        ([0.0], Screening.DISCARD),
        ([0.6], Screening.REPEAT),
        ([5.0], Screening.PROMOTE),
        ([0.6, 0.6], Screening.DISCARD),
        ([0.6, 1.6], Screening.PROMOTE),
        ([-math.inf], Screening.DISCARD),
        ([2.0, -math.inf], Screening.DISCARD),
    ],
)
def test_screening_asks_for_more_the_more_it_has_seen(
    sigmas: list[float], expected: Screening
) -> None:
    gains = [sigma * FLOOR.paired_sd for sigma in sigmas]
    assert screen(gains, FLOOR, ScreenRule()) is expected


@given(st.floats(-10, 10), st.floats(0, 10))
def test_a_better_screening_gain_never_fares_worse(gain: float, more: float) -> None:
    order = [Screening.DISCARD, Screening.REPEAT, Screening.PROMOTE]
    rule = ScreenRule()
    worse, better = screen([gain], FLOOR, rule), screen([gain + more], FLOOR, rule)
    assert order.index(better) >= order.index(worse)


def test_a_screen_refuses_more_trials_than_it_has_margins_for() -> None:
    with pytest.raises(UsageError):
        screen([1.0, 1.0, 1.0], FLOOR, ScreenRule())
