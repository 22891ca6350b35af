"""Rewards and advantages: ranks, penalties, and a taste for the maximum."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.agents.policy.decisions import Choice, Decision, Head, Record
from nightlab.agents.policy.interface import PENALTY, Outcome
from nightlab.agents.policy.rewards import (
    CLIP,
    advantages,
    entropic_advantages,
    learning_rewards,
)


def record(place: int, reward: float | None, outcome: Outcome = Outcome.VALID) -> Record:
    choice = Choice(head=Head.PART, options=("a", "b"), mask=(True, True), mu=(0.5, 0.5), index=0)
    decision = Decision(
        id=str(place),
        campaign="c",
        choices=(choice,),
        edits=(("a", "0"),),
        policy="p",
        version="1",
        catalogue="1",
        proposer="",
        seed="",
        time=place,
    )
    return Record(decision=decision, outcome=outcome, reward=reward)


def group(values: list[float]) -> np.ndarray:
    unit = np.array([values])
    found: np.ndarray = entropic_advantages(unit, np.ones_like(unit, dtype=bool))[0]
    return found


@pytest.mark.parametrize(
    ("values", "best", "rest"),
    [
        ([1.0, 1.0, 1.0, 0.0], 0.5, -1.0),
        ([1.0, 1.0, 0.0, 0.0], 2.0, -1.0),
        ([*np.linspace(0, 1, 64)], 4.4, -0.97),
        ([1.0, *[0.0] * 7], CLIP[1], -0.61),
        ([1.0, *[0.0] * 15], CLIP[1], -0.47),
    ],
)
def test_advantages_are_those_of_the_published_solver(
    values: list[float], best: float, rest: float
) -> None:
    found = group(values)
    assert found.max() == pytest.approx(best, abs=0.06)
    assert found.min() == pytest.approx(rest, abs=0.02)


@settings(deadline=None)
@given(
    st.lists(st.integers(-50, 50), min_size=4, max_size=12),
    st.floats(0.01, 1000),
    st.floats(-100, 100),
)
def test_shift_and_scale_of_the_reward_change_no_advantage(
    values: list[int], scale: float, shift: float
) -> None:
    before = advantages([record(i, float(v)) for i, v in enumerate(values)])
    after = advantages([record(i, scale * v + shift) for i, v in enumerate(values)])
    assert np.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 2.0, 3.0], [2.0] * 8])
def test_small_groups_and_equal_rewards_teach_nothing(values: list[float]) -> None:
    assert not advantages([record(i, v) for i, v in enumerate(values)]).any()


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=100))
def test_every_penalty_ranks_below_every_valid_outcome(values: list[float]) -> None:
    records = [record(i, v) for i, v in enumerate(values)]
    assert learning_rewards(records).min() > max(PENALTY.values())


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=3, max_size=7), st.sampled_from(list(PENALTY)))
def test_no_failed_member_of_a_group_beats_a_valid_one(
    values: list[float], outcome: Outcome
) -> None:
    records = [record(i, v) for i, v in enumerate(values)]
    gains = advantages([*records, record(99, None, outcome)])
    assert gains[-1] <= gains[:-1].min()


def test_a_tampered_trial_teaches_its_penalty_and_nothing_else() -> None:
    honest = [record(i, float(v)) for i, v in enumerate([3, 1, 2, 5, 4, 0])]
    with_none = [*honest[:3], record(9, None, Outcome.TAMPERED), *honest[3:]]
    claimed = [*honest[:3], replace(with_none[3], reward=1e9), *honest[3:]]
    assert np.array_equal(learning_rewards(with_none), learning_rewards(claimed))
    assert np.array_equal(advantages(with_none), advantages(claimed))
    others = np.delete(learning_rewards(with_none), 3)
    assert np.array_equal(others, learning_rewards(honest))
    assert learning_rewards(with_none)[3] == -1.0


def test_rewards_are_ranks_in_a_window_that_slides() -> None:
    climbing = learning_rewards([record(i, float(i)) for i in range(200)])
    assert climbing[-1] == pytest.approx(1.0 - 0.5 / 64)
    falling = learning_rewards([record(i, -float(i)) for i in range(200)])
    assert falling[-1] == pytest.approx(0.5 / 64)
