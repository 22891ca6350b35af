"""Intervals agree with scipy's own, and say nothing where one trial says nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nightlab.memory.report.intervals import difference, mean, spread

VALUES = st.lists(
    st.floats(-100, 100).map(lambda value: round(value, 3)), min_size=2, max_size=12, unique=True
)


@given(values=VALUES)
def test_the_mean_has_students_interval(values: list[float]) -> None:
    found = mean(values)
    assert found is not None
    error = stats.sem(values)
    wanted = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
    assert found.range == pytest.approx(list(wanted), rel=1e-9, abs=1e-9)


@given(values=VALUES)
def test_the_spread_has_the_chi_squared_interval(values: list[float]) -> None:
    found = spread(values)
    assert found is not None
    assert found.value == pytest.approx(np.std(values, ddof=1))
    df = len(values) - 1
    wanted = found.value * np.sqrt(df / stats.chi2.ppf([0.975, 0.025], df))
    assert found.range == pytest.approx(list(wanted))


@given(ours=VALUES, theirs=VALUES)
def test_the_difference_has_welchs_interval(ours: list[float], theirs: list[float]) -> None:
    found = difference(ours, theirs)
    wanted = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    assert found is not None
    assert found.range == pytest.approx([wanted.low, wanted.high], rel=1e-9, abs=1e-9)


def test_one_trial_has_a_level_and_no_interval() -> None:
    found = mean([3.5], ["c1-0/small/1"])
    assert found is not None
    assert (found.value, found.range, found.trials) == (3.5, None, ("c1-0/small/1",))
    assert spread([3.5]) is None
    alone = difference([1.0], [2.0, 3.0])
    assert alone is not None
    assert (alone.value, alone.range) == (-1.5, None)


def test_no_trial_has_nothing() -> None:
    assert mean([]) is None
    assert spread([]) is None
    assert difference([], [1.0]) is None
