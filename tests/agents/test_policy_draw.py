"""Draws: the floor, and Thompson sampling's probabilities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.agents.policy.decisions import Head
from nightlab.agents.policy.draw import best_probabilities, draw, floored
from nightlab.agents.policy.heads import by_cost


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0.0, 0.5), st.data())
def test_the_floor_holds_on_the_mask_and_nothing_is_left_off_it(
    weights: list[float], epsilon: float, data: st.DataObject
) -> None:
    mask = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(weights), max_size=len(weights)))
    )
    if not mask.any():
        mask[0] = True
    mu = floored(np.array(weights), mask, epsilon)
    assert mu.sum() == pytest.approx(1.0)
    assert (mu[mask] >= epsilon / mask.sum() - 1e-12).all()
    assert (mu[~mask] == 0).all()


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="mask is empty"):
        floored(np.ones(3), np.zeros(3, bool))


def test_the_integral_is_the_frequency_of_thompson_draws() -> None:
    rng = np.random.default_rng(0)
    mean, deviation = np.array([0.1, 0.0, 0.4, -2.0]), np.array([0.3, 0.8, 0.1, 0.5])
    mask = np.array([True, True, True, False])
    samples = rng.normal(mean, deviation, size=(200_000, 4))
    samples[:, 3] = -np.inf
    seen = np.bincount(samples.argmax(axis=1), minlength=4) / len(samples)
    assert np.abs(best_probabilities(mean, deviation, mask) - seen).max() < 0.006


@settings(deadline=None)
@given(st.permutations(range(5)))
def test_thompson_probabilities_follow_a_relabelling(order: list[int]) -> None:
    mean = np.array([0.0, 0.2, 0.2, -0.4, 1.0])
    deviation = np.array([0.3, 0.1, 0.5, 0.9, 0.2])
    mask = np.array([True, True, False, True, True])
    before = best_probabilities(mean, deviation, mask)
    after = best_probabilities(mean[order], deviation[order], mask[order])
    assert np.allclose(after, before[order])


def test_options_are_drawn_as_often_as_the_logged_distribution_says() -> None:
    rng = np.random.default_rng(1)
    weights, mask = np.array([0.6, 0.3, 0.1]), np.array([True, False, True])
    drawn = [draw(Head.PART, "abc", mask, weights, rng) for _ in range(8000)]
    seen = np.bincount([choice.index for choice in drawn], minlength=3) / len(drawn)
    assert np.abs(seen - np.array(drawn[0].mu)).max() < 0.02


def test_of_two_models_that_gain_as_much_the_cheap_one_is_asked_more_often() -> None:
    prior = np.array([0.4, 0.3, 0.3])
    weighed = by_cost(prior, np.array([0.0, 0.10, 0.01]))
    assert weighed == pytest.approx([0.4, 0.6 / 11, 6.0 / 11])


def test_a_dear_model_that_gains_more_for_its_money_stays_ahead() -> None:
    weighed = by_cost(np.array([0.95, 0.05]), np.array([0.02, 0.01]))
    assert weighed[0] > weighed[1]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.001, 0.2, 5.0])), min_size=1),
)
def test_cost_moves_mass_between_priced_authors_only(rows: list[tuple[float, float]]) -> None:
    prior, usd = np.array([p for p, _ in rows]), np.array([c for _, c in rows])
    weighed = by_cost(prior, usd)
    assert weighed.sum() == pytest.approx(prior.sum())
    assert (weighed[usd == 0] == prior[usd == 0]).all()
    assert (weighed >= 0).all()
