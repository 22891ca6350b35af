"""Whole simulated campaigns: null edits are refused, planted gains are found."""

import json

import numpy as np
import pytest

from nightlab.evals.bench_null import mean_interval, simulated_known, simulated_null
from nightlab.evals.simulation import Campaigns, Procedure, World
from nightlab.evals.statistics import FalseKeepBudget, PairedRule, ScreenRule


def test_300_null_edits_cost_less_than_one_expected_false_keep_in_every_kind_of_noise() -> None:
    bench = simulated_null(machine="test", date="2026-01-01", campaigns=300)
    assert len(bench["rows"]) == 6
    assert all(claim["holds"] for claim in bench["claims"]), bench["claims"]
    json.dumps(bench)


def test_a_gain_of_four_sigmas_is_found_and_a_gain_of_one_is_mostly_not() -> None:
    nominal = (World(name="nominal"),)
    bench = simulated_known(machine="test", date="2026-01-01", campaigns=2000, worlds=nominal)
    power = [float(str(row["power"])) for row in bench["rows"]]
    assert power == sorted(power)
    assert power[0] < 0.2
    assert bench["claims"][0]["holds"], bench["claims"]
    json.dumps(bench)


def test_keeping_whatever_is_better_on_fresh_pairs_would_break_the_budget() -> None:
    careless = Procedure(edits=100, budget=FalseKeepBudget(total=300.0, exponent=1.01))
    outcome = Campaigns(World(name="n"), careless, 100, np.random.default_rng(0)).run()
    assert outcome.false_keeps.mean() > 1


def test_pairing_helps_where_the_two_trials_of_a_pair_share_their_noise() -> None:
    rng = np.random.default_rng(1)
    procedure = Procedure(edits=50)
    alone = Campaigns(World(name="a"), procedure, 400, rng, 2.0).run()
    shared = Campaigns(World(name="b", correlation=0.6), procedure, 400, rng, 2.0).run()
    assert shared.found.mean() > alone.found.mean() + 0.2


def test_screening_gains_are_too_good_and_fresh_estimates_less_so() -> None:
    rng = np.random.default_rng(2)
    outcome = Campaigns(World(name="n"), Procedure(edits=50), 800, rng, 3.0).run()
    promoted = ~np.isnan(outcome.planted_screen)
    assert np.mean(outcome.planted_screen[promoted]) > 3.0 + 0.15
    assert abs(np.mean(outcome.planted_estimate[outcome.found]) - 3.0) < 0.3
    assert np.mean(outcome.planted_covered[outcome.found]) > 0.95


def test_every_trial_of_a_campaign_is_counted() -> None:
    procedure = Procedure(
        edits=10,
        floor_trials=5,
        screen_seeds=2,
        screen=ScreenRule(margins=(-1e9,)),
        paired=PairedRule(min_pairs=2, max_pairs=2, drop_from=2, min_effect=1e9),
    )
    outcome = Campaigns(World(name="n"), procedure, 3, np.random.default_rng(0)).run()
    assert outcome.confirmations.tolist() == [10, 10, 10]
    assert outcome.trials.tolist() == [5 + 2 + 10 * (1 + 2 * 2)] * 3


@pytest.mark.parametrize("world", [World(name="t", tail_df=4), World(name="c", correlation=0.5)])
def test_simulated_noise_has_the_variance_it_is_given(world: World) -> None:
    rng = np.random.default_rng(3)
    seeds = world.draw(rng, (200_000,))
    one, two = world.trials(rng, seeds, 2.0), world.trials(rng, seeds, 1.0)
    assert np.var(one) == pytest.approx(2.0, rel=0.1)
    assert np.corrcoef(one, two)[0, 1] == pytest.approx(world.correlation, abs=0.02)


def test_no_false_keep_at_all_still_leaves_an_upper_bound() -> None:
    assert mean_interval(np.zeros(300, dtype=np.int64)) == (0.0, 0.01)
