"""The off-policy gate: estimators that are right when they should be, and a gate that refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.agents.policy.gate import Worth, effective_size, judge, lower_bound
from nightlab.agents.policy.worth import sequential

ARMS = np.array([0.2, 0.5, 0.9])
MU = np.array([0.6, 0.3, 0.1])
PI = np.array([0.1, 0.2, 0.7])
TRUE = float(PI @ ARMS)


def logged(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(arm, reward) of a logged bandit."""
    rng = np.random.default_rng(seed)
    arm = rng.choice(3, size=count, p=MU)
    return arm, (rng.random(count) < ARMS[arm]).astype(float)


def worth(
    arm: np.ndarray, reward: np.ndarray, pi: np.ndarray, mu: np.ndarray, q: np.ndarray
) -> Worth:
    """One-head worth with a critic's table q."""
    count = len(arm)
    value = np.full((count, 1), float(pi @ q))
    ratio = (pi / mu)[arm][:, None]
    drawn = np.ones((count, 1), dtype=bool)
    return Worth(*sequential(value, q[arm][:, None], ratio, drawn, reward), reward)


def test_ips_is_unbiased_on_a_logged_bandit() -> None:
    estimates = [worth(*logged(200, seed), PI, MU, np.zeros(3)).ips for seed in range(300)]
    error = 3 * np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - TRUE) < error


@given(st.integers(0, 500))
@settings(deadline=None, max_examples=40)
def test_snips_stays_in_the_range_of_the_reward(seed: int) -> None:
    found = worth(*logged(30, seed), PI, MU, np.zeros(3))
    assert 0.0 <= found.snips <= 1.0


@pytest.mark.parametrize(
    ("mu", "q"),
    [(MU, np.array([0.9, 0.1, 0.3])), (np.array([0.2, 0.6, 0.2]), ARMS)],
    ids=["right propensities, wrong critic", "wrong propensities, right critic"],
)
def test_dr_is_right_when_either_side_is(mu: np.ndarray, q: np.ndarray) -> None:
    estimates = [worth(*logged(200, seed), PI, mu, q).dr for seed in range(300)]
    error = 3.5 * np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - TRUE) < error


def test_dr_is_wrong_when_both_sides_are() -> None:
    wrong = (np.array([0.2, 0.6, 0.2]), np.array([0.9, 0.1, 0.3]))
    estimates = [worth(*logged(200, seed), PI, *wrong).dr for seed in range(100)]
    assert abs(np.mean(estimates) - TRUE) > 0.05


def test_two_heads_in_sequence_are_right_without_a_critic() -> None:
    rng = np.random.default_rng(0)
    mu, pi = np.array([0.7, 0.3]), np.array([0.2, 0.8])
    first, second = rng.choice(2, 40_000, p=mu), rng.choice(2, 40_000, p=mu)
    reward = (rng.random(40_000) < 0.2 + 0.3 * first * second + 0.2 * second).astype(float)
    ratio = np.stack([(pi / mu)[first], (pi / mu)[second]], axis=1)
    zero = np.zeros_like(ratio)
    terms, _ = sequential(zero, zero, ratio, np.ones_like(ratio, dtype=bool), reward)
    assert terms.mean() == pytest.approx(0.2 + 0.3 * 0.64 + 0.2 * 0.8, abs=0.03)


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=60))
def test_the_effective_size_lies_between_one_and_the_count(weights: list[float]) -> None:
    assert 1.0 - 1e-9 <= effective_size(np.array(weights)) <= len(weights) + 1e-9


def _judge(count: int, seed: int, pi: np.ndarray, reward: np.ndarray | None = None) -> object:
    arm, real = logged(count, seed)
    reward = real if reward is None else reward
    units = np.arange(count) // 5
    rng = np.random.default_rng(0)
    q = np.full(3, reward.mean())
    return judge(worth(arm, reward, pi, MU, q), worth(arm, reward, MU, MU, q), units, rng)


def test_a_better_version_is_adopted_on_enough_evidence() -> None:
    assert _judge(400, 1, PI).adopt  # type: ignore[attr-defined]


def test_below_an_effective_size_of_20_nothing_is_adopted() -> None:
    verdict = _judge(25, 1, np.array([0.01, 0.01, 0.98]))
    assert not verdict.adopt  # type: ignore[attr-defined]
    assert "below 20" in verdict.reason  # type: ignore[attr-defined]


def test_one_dominant_decision_adopts_nothing() -> None:
    rewards = np.ones(80)
    weights = np.ones(80)
    weights[0] = 10.0
    heavy = Worth(rewards, weights * np.where(np.arange(80) < 25, 1.0, 0.0), rewards)
    even = Worth(np.zeros(80), np.ones(80), rewards)
    strict = judge(heavy, even, np.arange(80) // 4, np.random.default_rng(0))
    assert not strict.adopt


def test_the_gate_refuses_what_shuffled_rewards_taught() -> None:
    adopted = 0
    for seed in range(40):
        arm, reward = logged(300, seed)
        shuffled = np.random.default_rng(seed).permutation(reward)
        means = np.array([shuffled[arm == a].mean() for a in range(3)])
        pi = np.full(3, 0.05)
        pi[int(means.argmax())] += 0.85
        fresh = np.random.default_rng([seed, 1]).permutation(logged(300, seed + 1000)[1])
        adopted += _judge(300, seed + 1000, pi, fresh).adopt  # type: ignore[attr-defined]
    # one-sided 2.5 % per trial: more than 5 of 40 has probability below 0.001
    assert adopted <= 5


def test_one_lineage_bounds_nothing() -> None:
    rng = np.random.default_rng(0)
    assert lower_bound(np.ones(50), np.zeros(50, np.int64), rng) == -np.inf


def test_the_bootstrap_bound_covers_the_mean() -> None:
    rng = np.random.default_rng(3)
    below = 0
    for _ in range(200):
        family = rng.standard_normal(30)
        terms = np.repeat(family, 4) + 0.3 * rng.standard_normal(120)
        below += lower_bound(terms, np.repeat(np.arange(30), 4), rng) < 0.0
    assert 0.93 <= below / 200 <= 1.0
