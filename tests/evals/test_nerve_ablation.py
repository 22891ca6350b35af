"""The ablation finds what spectra add, and says so where they add nothing."""

import numpy as np
import pytest

from nightlab.evals.nerve import trends
from nightlab.evals.nerve.ablation import ablate


def runs(carried: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Twenty programs, two runs each; the target is a curve's number plus a carried spectrum's."""
    rng = np.random.default_rng(seed)
    plain, told = rng.normal(size=(40, 3)), rng.normal(size=(40, 4))
    target = plain[:, 0] + carried * told[:, 1] + 0.1 * rng.normal(size=40)
    return plain, told, target, [n // 2 for n in range(40)]


def test_spectra_that_carry_the_target_lower_the_error() -> None:
    found = ablate(*runs(carried=1.0))
    assert found.change.high < 0
    assert found.with_spectra.value < 0.5 * found.without.value
    assert "help" in " ".join(found.lines("nats"))


def test_spectra_that_carry_nothing_do_not_seem_to_help() -> None:
    changes = [ablate(*runs(carried=0.0, seed=seed), seeds=5).change.value for seed in range(4)]
    assert sum(changes) / len(changes) > 0


def test_missing_numbers_and_empty_columns_are_no_obstacle() -> None:
    plain, told, target, groups = runs(carried=1.0)
    told[::7, 1] = np.nan
    told[:, 3] = np.nan
    found = ablate(plain, told, target, groups, seeds=5)
    assert found.runs == 40
    assert found.groups == 20
    assert found.change.high < 0
    nothing = ablate(plain, np.full((40, 2), np.nan), target, groups, seeds=5)
    assert nothing.change.value == pytest.approx(0.0)


def test_the_interval_of_the_change_is_over_programs_and_mostly_covers_no_effect() -> None:
    rng = np.random.default_rng(0)
    groups = [n // 2 for n in range(40)]
    errors = rng.chisquare(1, size=(40, 2, 40))
    found = [
        trends.change_interval(before, after, groups, seed=seed)
        for seed, (before, after) in enumerate(errors)
    ]
    assert sum(change.excludes_zero for change in found) <= 6
    before = rng.chisquare(1, size=40)
    assert trends.change_interval(before, 0.25 * before, groups).high < 0
