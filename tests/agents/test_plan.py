"""A plan fits its budget, and seeds are the evaluator's."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.agents.goal import read
from nightlab.agents.plan import MOST_SEEDS, caveats, least_trials, make, seeds
from nightlab.errors import UsageError
from nightlab.evals.task import load
from nightlab.vocabulary import Budget, Purpose

TASK = load("byte_lm")


@given(st.floats(150, 1e6), st.integers(1, 16))
def test_whatever_is_kept_back_fits_the_time(seconds: float, workers: int) -> None:
    plan = make(TASK, Budget(seconds=seconds), workers)
    assert plan.noise_seconds + plan.confirm_seconds + plan.closing_seconds <= seconds
    assert plan.confirm in TASK.rungs


def test_a_longer_campaign_confirms_on_a_larger_rung() -> None:
    rungs = [make(TASK, Budget(seconds=s), 2).confirm.name for s in (180, 900, 8 * 3600)]
    assert rungs == ["small", "medium", "full"]


@pytest.mark.parametrize("budget", [Budget(seconds=20), Budget(trials=3)])
def test_a_budget_too_small_to_confirm_anything_is_refused(budget: Budget) -> None:
    with pytest.raises(UsageError, match="too few"):
        make(TASK, budget, 1)


def test_the_least_number_of_trials_is_accepted() -> None:
    least = least_trials(make(TASK, Budget(trials=200), 2))
    assert make(TASK, Budget(trials=least), 2).screen.name == "small"


@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 8))
def test_asking_for_more_seeds_only_adds_to_the_end(campaign: int, few: int, more: int) -> None:
    longer = seeds(campaign, Purpose.NOISE, few + more)
    assert longer[:few] == seeds(campaign, Purpose.NOISE, few)
    assert len(set(longer)) == few + more


def test_screening_starts_on_the_seeds_of_the_noise_floor() -> None:
    assert seeds(5, Purpose.SCREEN, 2) == seeds(5, Purpose.NOISE, 4)[:2]


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40))
def test_every_confirmation_has_fresh_seeds(campaign: int, first: int, second: int) -> None:
    one = set(seeds(campaign, Purpose.CONFIRM, 8, confirmation=first))
    other = set(seeds(campaign, Purpose.CONFIRM, 8, confirmation=second))
    assert first == second or not one & other
    assert not one & set(seeds(campaign, Purpose.NOISE, MOST_SEEDS))


def test_a_latency_behind_more_than_a_window_is_planned_with_what_it_means() -> None:
    reading = read(
        "halve decode latency at 4k context within 1% bpb",
        TASK.metrics,
        TASK.metric,
        datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert reading.objective.metric == "decode_ms@4096"
    assert reading.objective.target_percent == 50
    (told,) = caveats(TASK, reading.objective)
    assert "a pass over the last window" in told


def test_meters_that_a_goal_names_are_part_of_what_a_trial_takes() -> None:
    task, budget = load("recall"), Budget(seconds=3600)
    plain = make(task, budget, 2)
    metered = make(task, budget, 2, ["kv_bytes_per_token", "accuracy"])
    assert metered.scoring_seconds > plain.scoring_seconds == task.scoring_seconds
