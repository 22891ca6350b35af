"""The surrogate: it learns parts that add up, knows what it does not know, and has no units."""

import numpy as np
import pytest

from nightlab.agents.policy.interface import Archive, Attempt, Menu, Outcome, Part
from nightlab.agents.policy.situation import improvement
from nightlab.agents.policy.surrogate import Kernel, Surrogate

MENU = Menu(parts=tuple(Part(f"p{i}", ("0", "1", "2", "3")) for i in range(5)))
CELLS = np.array([[(n // 4**i) % 4 for i in range(5)] for n in range(4**5)])
EFFECTS = np.random.default_rng(0).standard_normal((5, 4))
QUALITY = EFFECTS[np.arange(5), CELLS].sum(axis=1)


def looked(scores: np.ndarray, count: int, seed: int = 1) -> tuple[Archive, np.ndarray]:
    """An archive of random programs, and their positions."""
    picked = np.random.default_rng(seed).permutation(len(CELLS))[:count]
    archive = Archive(MENU)
    for cell in picked:
        genes = {f"p{i}": str(v) for i, v in enumerate(CELLS[cell])}
        archive.record(
            Attempt(
                id=str(cell),
                program=str(cell),
                genes=genes,
                outcome=Outcome.VALID,
                reward=float(scores[cell]),
            )
        )
    return archive, picked


def test_unseen_programs_are_foretold_where_parts_add_up() -> None:
    archive, picked = looked(QUALITY, 80)
    surrogate = Surrogate.of(archive, Kernel())
    assert surrogate is not None
    rest = np.setdiff1d(np.arange(len(CELLS)), picked)
    foretold = surrogate.predict(CELLS[rest]).mean
    assert np.corrcoef(foretold, QUALITY[rest])[0, 1] > 0.95
    assert surrogate.trust() > 0.9


def test_the_surrogate_does_not_trust_itself_on_noise() -> None:
    archive, _ = looked(np.random.default_rng(2).permutation(QUALITY), 80)
    surrogate = Surrogate.of(archive, Kernel())
    assert surrogate is not None
    assert surrogate.trust() < 0.3


def test_what_was_seen_is_surer_than_what_was_not() -> None:
    archive, picked = looked(QUALITY, 40)
    surrogate = Surrogate.of(archive, Kernel())
    assert surrogate is not None
    seen = surrogate.predict(CELLS[picked]).deviation
    rest = np.setdiff1d(np.arange(len(CELLS)), picked)
    assert seen.max() < surrogate.predict(CELLS[rest]).deviation.min()


@pytest.mark.parametrize(("scale", "shift"), [(100.0, 3.0), (1e-3, -50.0)])
def test_units_of_the_metric_change_no_forecast(scale: float, shift: float) -> None:
    first = Surrogate.of(looked(QUALITY, 40)[0], Kernel())
    second = Surrogate.of(looked(scale * QUALITY + shift, 40)[0], Kernel())
    assert first is not None
    assert second is not None
    assert np.allclose(first.predict(CELLS).mean, second.predict(CELLS).mean)


def test_the_leave_one_out_forecast_is_that_of_a_refit() -> None:
    archive, picked = looked(QUALITY, 20)
    whole = Surrogate.of(archive, Kernel())
    assert whole is not None
    precision = np.square(whole.inverse_factor).sum(axis=0)
    foretold = whole.scores - whole.weights / precision
    keep = np.arange(1, 20)
    refit = Surrogate(
        CELLS[picked[keep]], whole.scores[keep], np.zeros(19, np.int64), whole.tables, whole.kernel
    )
    refit.weights = refit.inverse_factor.T @ (
        refit.inverse_factor @ (whole.scores[keep] - whole.mean)
    )
    refit.mean = whole.mean
    assert refit.predict(CELLS[picked[:1]]).mean[0] == pytest.approx(foretold[0], abs=1e-8)


def test_the_cost_of_a_fit_is_bounded_by_the_rows_kept() -> None:
    surrogate = Surrogate.of(looked(QUALITY, 500)[0], Kernel(rows=64))
    assert surrogate is not None
    assert len(surrogate.scores) == 64
    assert surrogate.best == pytest.approx(surrogate.scores.max())


def test_expected_improvement_is_the_mean_of_the_positive_part() -> None:
    draws = np.random.default_rng(0).normal(0.3, 0.7, 400_000)
    expected = np.maximum(draws - 0.5, 0).mean()
    found = improvement(np.array([0.3]), np.array([0.7]), 0.5)[0]
    assert found == pytest.approx(expected, abs=0.005)
