"""Early abort against the incumbent's own curve, and the audit of it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.errors import UsageError
from nightlab.evals.abort import AbortRule, Curve, Fate, Finished, Forecast, lead

FRACTIONS = tuple(round(0.1 * step, 1) for step in range(1, 11))


def curve(final: float, *, until: float = 1.0, late: float = 0.0) -> Curve:
    """A loss curve that ends at ``final``; ``late`` is lost by then but missing at half time."""
    points = [f for f in FRACTIONS if f <= until]
    warmdown = [max(0.0, 1 - f) / 0.5 if f > 0.5 else 1.0 for f in points]
    losses = [final + 1.5 * (1 - f) ** 2 + late * w for f, w in zip(points, warmdown, strict=True)]
    return Curve(tuple(points), tuple(losses))


INCUMBENT = curve(3.5)


def history(n: int, seed: int = 0) -> list[Finished]:
    """Finished trials whose curves at every point differ by their final gain plus noise."""
    rng = np.random.default_rng(seed)
    return [
        Finished(challenger=curve(3.5 - gain), incumbent=INCUMBENT, gain=gain + noise)
        for gain, noise in zip(rng.normal(-0.05, 0.1, n), rng.normal(0, 0.02, n), strict=True)
    ]


def test_the_lead_is_taken_at_equal_budget_between_the_points_of_both_curves() -> None:
    fast = Curve((0.5, 1.0), (3.0, 2.0))
    slow = Curve((0.2, 0.6, 1.0), (4.0, 3.2, 3.0))
    assert lead(fast, slow, 0.5) == pytest.approx(0.4)
    assert lead(slow, fast, 1.0) == pytest.approx(-1.0)


def test_a_hopeless_trial_is_aborted_and_a_level_one_runs() -> None:
    rule, past = AbortRule(), history(40)
    bad = rule.check(curve(3.9, until=0.5), INCUMBENT, past, coin=0.9)
    level = rule.check(curve(3.5, until=0.5), INCUMBENT, past, coin=0.9)
    assert (bad.fate, level.fate) == (Fate.ABORT, Fate.RUN)
    assert bad.lead == pytest.approx(-0.4)
    assert bad.chance < 0.05 < level.chance


def test_until_twenty_trials_are_finished_only_divergence_aborts() -> None:
    rule, past = AbortRule(), history(19)
    past.append(Finished(challenger=curve(9.0), incumbent=INCUMBENT, gain=-math.inf))
    assert rule.check(curve(9.0, until=0.5), INCUMBENT, past, coin=0.9).fate is Fate.RUN
    broken = Curve((0.1, 0.2), (4.0, math.nan))
    worse = Curve((0.1, 0.3), (4.0, 4.5))
    for diverged in (broken, worse):
        assert rule.check(diverged, INCUMBENT, past, coin=0.9).fate is Fate.ABORT
        assert rule.check(diverged, INCUMBENT, past, coin=0.0).fate is Fate.AUDIT


def test_the_coin_turns_a_share_of_aborts_into_audits_and_is_logged() -> None:
    rule, past = AbortRule(audit_share=0.1), history(40)
    checks = [
        rule.check(curve(3.9, until=0.5), INCUMBENT, past, coin=coin)
        for coin in (0.0, 0.0999, 0.1, 0.9)
    ]
    assert [check.fate for check in checks] == [Fate.AUDIT, Fate.AUDIT, Fate.ABORT, Fate.ABORT]
    assert [check.coin for check in checks] == [0.0, 0.0999, 0.1, 0.9]


def test_an_edit_of_the_schedule_is_given_twice_the_margin() -> None:
    rule, past = AbortRule(), history(40)
    late = curve(3.45, until=0.5, late=0.11)
    plain = rule.check(late, INCUMBENT, past, coin=0.9)
    schedule = rule.check(late, INCUMBENT, past, coin=0.9, touches_schedule=True)
    assert (plain.fate, schedule.fate) == (Fate.ABORT, Fate.RUN)


@given(st.integers(3, 40), st.floats(0, 1), st.integers(0, 10**6))
def test_a_history_of_nothing_but_losers_never_aborts_a_trial_that_is_level(
    n: int, ahead: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    leads = rng.normal(-0.2, 0.1, n)
    forecast = Forecast.fit(leads.tolist(), (leads - rng.uniform(0, 0.2, n)).tolist())
    assert forecast.chance(ahead) >= 0.5


@given(st.floats(-1, 1), st.floats(0, 1))
def test_a_larger_lead_never_lowers_the_forecast(at: float, more: float) -> None:
    past = history(30)
    leads = [lead(trial.challenger, trial.incumbent, 0.5) for trial in past]
    forecast = Forecast.fit(leads, [trial.gain for trial in past])
    assert forecast.gain(at + more) >= forecast.gain(at)


def test_wild_outliers_do_not_move_the_line() -> None:
    leads = np.linspace(-0.3, 0.1, 30)
    gains = leads + np.random.default_rng(0).normal(0, 0.01, 30)
    gains[:2] = 5.0
    forecast = Forecast.fit(leads.tolist(), gains.tolist())
    assert forecast.slope == pytest.approx(1.0, abs=0.1)


def test_two_trials_make_no_forecast() -> None:
    with pytest.raises(UsageError):
        Forecast.fit([0.1, 0.2], [0.1, 0.2])


def test_curves_that_are_not_curves_are_refused() -> None:
    for fractions, losses in [((), ()), ((0.1,), (1.0, 2.0)), ((0.2, 0.1), (1.0, 2.0))]:
        with pytest.raises(UsageError):
            Curve(fractions, losses)


def test_of_the_trials_it_aborts_hardly_any_would_have_won() -> None:
    rng = np.random.default_rng(4)
    rule, past, aborted = AbortRule(), history(30, seed=9), []
    for _ in range(400):
        gain, noise = float(rng.normal(-0.05, 0.1)), float(rng.normal(0, 0.02))
        check = rule.check(curve(3.5 - gain, until=0.5), INCUMBENT, past, coin=0.9)
        if check.fate is Fate.ABORT:
            aborted.append(gain + noise)
    assert len(aborted) > 150
    assert sum(gain > 0 for gain in aborted) / len(aborted) <= 0.05
