"""A plan fits its budget, and seeds are the evaluator's."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.agents.goal import read
from nightlab.agents.plan import MOST_SEEDS, caveats, least_trials, make, seeds
from nightlab.errors import UsageError
from nightlab.evals.task import load
from nightlab.vocabulary import Budget, Constraint, Direction, Objective, Purpose

TASK = load("byte_lm")
RECALL = load("recall")


def goal(budget: Budget, metric: str = "val_bpb", *bounds: Constraint) -> Objective:
    return Objective(metric=metric, direction=Direction.LOWER, budget=budget, constraints=bounds)


@given(st.floats(150, 1e6), st.integers(1, 16))
def test_whatever_is_kept_back_fits_the_time(seconds: float, workers: int) -> None:
    plan = make(TASK, goal(Budget(seconds=seconds)), workers)
    assert plan.noise_seconds + plan.confirm_seconds + plan.closing_seconds <= seconds
    assert plan.confirm in TASK.rungs


def test_a_longer_campaign_confirms_on_a_larger_rung() -> None:
    rungs = [make(TASK, goal(Budget(seconds=s)), 2).confirm.name for s in (180, 900, 8 * 3600)]
    assert rungs == ["small", "medium", "full"]


@pytest.mark.parametrize("budget", [Budget(seconds=20), Budget(trials=3)])
def test_a_budget_too_small_to_confirm_anything_is_refused(budget: Budget) -> None:
    with pytest.raises(UsageError, match="too few"):
        make(TASK, goal(budget), 1)


def test_the_least_number_of_trials_is_accepted() -> None:
    least = least_trials(make(TASK, goal(Budget(trials=200)), 2))
    assert make(TASK, goal(Budget(trials=least)), 2).screen.name == "small"


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
    (told,) = caveats(TASK, reading.objective, make(TASK, reading.objective, 2))
    assert "a pass over the last window" in told


def test_meters_that_a_goal_names_are_part_of_what_a_trial_takes() -> None:
    hour = Budget(seconds=3600)
    plain = make(RECALL, goal(hour, "accuracy"), 2)
    metered = make(RECALL, goal(hour, "kv_bytes_per_token"), 2)
    assert metered.scoring_seconds > plain.scoring_seconds == RECALL.scoring_seconds


def test_little_time_is_spent_on_the_coarse_rung_and_the_person_is_told() -> None:
    short, long = goal(Budget(seconds=300), "accuracy@2048"), goal(Budget(seconds=600), "accuracy")
    coarse = make(RECALL, short, 2)
    assert coarse.rungs == (RECALL.coarse,)
    assert coarse.fixed_seconds < 150
    assert make(RECALL, long, 2).screen == RECALL.rungs[0]
    (told,) = caveats(RECALL, short, coarse)
    assert "from 7 minutes on they train for 15 s" in told
    assert not caveats(RECALL, long, make(RECALL, long, 2))


@given(st.floats(300, 3600))
def test_a_bound_is_never_decided_on_the_coarse_rung(seconds: float) -> None:
    bound = Constraint("accuracy", ">=", 0.99, relative=True)
    objective = goal(Budget(seconds=seconds), "kv_bytes_per_token", bound)
    assert RECALL.coarse not in make(RECALL, objective, 2).rungs


def test_trials_that_are_counted_are_never_coarse() -> None:
    assert make(RECALL, goal(Budget(trials=18), "accuracy"), 2).screen == RECALL.rungs[0]


@pytest.mark.parametrize("seconds", ["15", "0"])
def test_a_coarse_rung_that_is_no_cheaper_is_refused(tmp_path: Path, seconds: str) -> None:
    folder = tmp_path / "recall"
    shutil.copytree(RECALL.folder, folder)
    toml = folder / "task.toml"
    toml.write_text(toml.read_text().replace("cpu_seconds = 6", f"cpu_seconds = {seconds}"))
    with pytest.raises(UsageError, match="coarse_rung"):
        load(str(folder))
