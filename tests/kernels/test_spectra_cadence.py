"""Reports fall on steps that all programs share, and thin out in long runs."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nightlab.kernels.spectra.cadence import FIRST, REPORTS, Cadence, reports
from nightlab.kernels.spectra.recorder import EVERY


def steps(most: int) -> list[int]:
    cadence, found = Cadence(), []
    for step in range(most):
        if cadence.due(step):
            cadence.reported()
            found.append(step)
    return found


def test_a_run_reports_early_and_then_on_a_grid_that_widens_once_it_is_long() -> None:
    found = steps(10_000)
    assert found[:3] == [FIRST, EVERY, 2 * EVERY]
    gaps = [b - a for a, b in pairwise(found[1:])]
    assert gaps == sorted(gaps)
    assert gaps[: REPORTS - 3] == [EVERY] * (REPORTS - 3)
    assert set(gaps) <= {EVERY * 2**n for n in range(10)}


@given(st.integers(0, 20_000), st.integers(0, 20_000))
def test_the_steps_of_a_short_run_are_those_of_a_long_one(a: int, b: int) -> None:
    short, long = sorted((a, b))
    assert steps(short) == [step for step in steps(long) if step < short]
    assert reports(short) == len(steps(short))
