"""The search bench: honest accounting, paired seeds, and the leave-one-out rule."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nightlab.agents.bench_search import tables
from nightlab.agents.bench_search.arms import BASELINES, neighbours, random_search
from nightlab.agents.bench_search.campaign import Campaign
from nightlab.agents.bench_search.claims import claims
from nightlab.agents.bench_search.command import bench, stored_rows
from nightlab.agents.bench_search.fidelity import (
    PATIENCE,
    STARTS,
    TWO_FIDELITY,
    Screened,
    restarted,
)
from nightlab.agents.bench_search.learners import POLICIES, Warm, warm_arm
from nightlab.agents.bench_search.objective import Objective, SpentError
from nightlab.agents.bench_search.protocol import (
    MODES,
    Row,
    Settings,
    arms_of,
    campaign,
    half_width,
    measure,
    regret_at,
    tables_of,
)
from nightlab.agents.bench_search.simulated import simulated
from nightlab.agents.bench_search.tables import Table, permuted, read
from nightlab.agents.policy.bandit import PuctThompson
from nightlab.agents.policy.network import fresh
from nightlab.agents.policy.stored import write
from nightlab.errors import MissingError, UsageError

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TABLE = simulated(3)
SETTINGS = Settings(tables=Path(), seeds=4, checkpoints=(20, 40))

recorded = pytest.mark.skipif(not DATA.is_dir(), reason="the benchmark tables are not here")


def spend(objective: Objective, arm: Callable[[Objective, np.random.Generator], None]) -> None:
    with pytest.raises(SpentError):
        arm(objective, np.random.default_rng(0))


def expected_random_regret(values: np.ndarray, looks: int) -> float:
    """Exact mean regret of looks without replacement."""
    order = np.sort(values.ravel())
    count = len(order)
    # P(best of the looks is at most order[k]) = C(k+1, looks) / C(count, looks)
    k = np.arange(count)
    terms = np.ones(count)
    for i in range(looks):
        terms = terms * np.maximum(k + 1 - i, 0) / (count - i)
    return float(order[-1] - (np.diff(terms, prepend=0.0) * order).sum())


def test_random_search_has_its_exact_expected_regret() -> None:
    found = []
    for seed in range(400):
        cost, regret = campaign(TABLE, random_search, "plain", 40, seed)
        found.append(regret_at(cost, regret, 40))
    exact = expected_random_regret(TABLE.values, 40)
    assert abs(np.mean(found) - exact) < 3 * np.std(found) / np.sqrt(len(found))


@pytest.mark.parametrize("name", [*BASELINES, *POLICIES])
def test_no_arm_looks_more_often_than_its_budget_pays_for(name: str) -> None:
    if name == "cma-es":
        pytest.importorskip("cmaes")
    arm = {**BASELINES, **POLICIES}[name]
    cost, regret = campaign(TABLE, arm, "plain", 30, seed=1)
    assert cost[-1] <= 30
    assert (np.diff(regret) <= 0).all()
    assert len(cost) == 30 or regret[-1] == 0.0


@pytest.mark.parametrize("name", ["local search", "bandit", "tpe"])
def test_a_seed_repeats_its_campaign(name: str) -> None:
    arm = {**BASELINES, **POLICIES}[name]
    first, second = (campaign(TABLE, arm, "plain", 25, seed=5)[1] for _ in range(2))
    assert np.array_equal(first, second)


def test_a_repeated_look_costs_like_a_first_one() -> None:
    objective = Objective(TABLE, 3, np.random.default_rng(0))
    worst = tuple(int(i) for i in np.unravel_index(TABLE.values.argmin(), TABLE.shape))
    for _ in range(3):
        objective.look(worst)
    with pytest.raises(SpentError):
        objective.look(worst)


def test_a_campaign_ends_when_the_best_program_is_found() -> None:
    objective = Objective(TABLE, 100, np.random.default_rng(0))
    best = tuple(int(i) for i in np.unravel_index(TABLE.values.argmax(), TABLE.shape))
    with pytest.raises(SpentError):
        objective.look(best)
    trace = objective.trace()
    assert regret_at(trace.cost, trace.regret, 100) == 0.0


def test_a_policy_never_looks_at_a_program_twice() -> None:
    objective = Objective(TABLE, 60, np.random.default_rng(0))
    made = Campaign("c", objective, np.random.default_rng(1), starts=1)
    with contextlib.suppress(SpentError):
        while True:
            made.step(PuctThompson())
    assert len(made.archive) == 60
    programs = [attempt.program for attempt in made.archive.attempts]
    assert len(set(programs)) == len(programs)


def test_nobody_beats_random_on_a_permuted_table() -> None:
    null = permuted(TABLE, seed=1)
    exact = expected_random_regret(null.values, 40)
    for name, seeds in (("regularized evolution", 200), ("bandit", 10)):
        arm = {**BASELINES, **POLICIES}[name]
        rows = measure(replace(SETTINGS, seeds=seeds, checkpoints=(40,)), null, name, arm)
        assert rows[0].regret > exact - 1.5 * rows[0].interval


def test_weights_that_saw_a_table_are_refused_on_it(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write(path, fresh(0), {"trained_on": "simulated,nb201-cifar10"})
    with pytest.raises(UsageError, match="trained on nb201-cifar10"):
        warm_arm([path], "nb201-cifar10")
    assert warm_arm([path], "macro-cifar10").trained_on == {"simulated", "nb201-cifar10"}
    settings = replace(SETTINGS, weights=(path,), arms=("policy warm",))
    with pytest.raises(UsageError, match="trained on"):
        arms_of(settings, "nb201-cifar10")


def test_the_rule_holds_at_the_campaign_too() -> None:
    arm = Warm(fresh(0), frozenset({TABLE.name}))
    with pytest.raises(UsageError, match="trained on"):
        arm(Objective(TABLE, 10, np.random.default_rng(0)), np.random.default_rng(0))


def test_weights_that_do_not_say_what_they_saw_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "w.safetensors", fresh(0))
    with pytest.raises(UsageError, match="trained on"):
        warm_arm([tmp_path / "w.safetensors"], "macro-cifar10")


def test_a_noisy_look_returns_one_seed_and_the_regret_is_by_the_mean() -> None:
    rng = np.random.default_rng(0)
    seeds = TABLE.values[..., None] + 0.1 * rng.standard_normal((*TABLE.shape, 3))
    noisy = replace(TABLE, values=seeds.mean(axis=-1), seeds=seeds)
    objective = Objective(noisy, 5, rng, noisy=True)
    cell = (0,) * len(noisy.shape)
    assert {objective.look(cell) for _ in range(5)} <= set(seeds[cell].tolist())
    assert objective.trace().regret[-1] == pytest.approx(noisy.best - noisy.values[cell])


def _two_fidelity_table() -> Table:
    rng = np.random.default_rng(0)
    low = TABLE.values + 0.3 * TABLE.values.std() * rng.standard_normal(TABLE.shape)
    return replace(TABLE, low=low, low_cost=0.06)


@pytest.mark.parametrize("name", list(TWO_FIDELITY))
def test_cheap_looks_cost_their_share_and_hand_over_nothing(name: str) -> None:
    table = _two_fidelity_table()
    cost, regret = campaign(table, TWO_FIDELITY[name], "two-fidelity", 12, seed=0)
    assert cost[-1] <= 12 + 1e-9
    assert set(np.round(np.diff(cost), 6)) <= {0.06, 1.0}
    if "full looks" not in name:
        assert regret[0] == pytest.approx(table.best - table.values.min())


@pytest.mark.parametrize("name", ["random", "policy cold"])
def test_both_rungs_get_an_even_share_of_the_budget(name: str) -> None:
    # the best program alone would end the campaign: hide it from the cheap look
    table = _two_fidelity_table()
    assert table.low is not None
    table.low[np.unravel_index(table.values.argmax(), table.shape)] = table.low.min()
    cost, _ = campaign(table, TWO_FIDELITY[name], "two-fidelity", 12, seed=1)
    full = np.diff(cost, prepend=0.0) > 0.5
    low_spent, full_spent = np.cumsum(~full) * 0.06, np.cumsum(full)
    assert (full_spent <= low_spent + 1e-9).all()
    assert full_spent[-1] > low_spent[-1] - 1.0 - 0.06


def test_what_is_promoted_is_the_best_that_was_not() -> None:
    table = _two_fidelity_table()
    assert table.low is not None
    screened = Screened(Objective(table, 5, np.random.default_rng(0)))
    rng = np.random.default_rng(1)
    seen = [tuple(int(rng.integers(n)) for n in table.shape) for _ in range(40)]
    for cell in seen:
        screened.look(cell)
    # 17 cheap looks pay for one full look
    low = {cell: float(table.low[cell]) for cell in seen}
    first = max(seen[:17], key=low.__getitem__)
    second = max((cell for cell in seen[:34] if cell != first), key=low.__getitem__)
    assert list(screened.full) == [first, second]


def test_a_policy_that_is_stuck_starts_again_elsewhere() -> None:
    peak = replace(TABLE, values=np.zeros(TABLE.shape), low=np.zeros(TABLE.shape), low_cost=0.06)
    peak.values[(-1,) * len(TABLE.shape)] = 1.0
    screened = Screened(Objective(peak, 12, np.random.default_rng(0)))
    with pytest.raises(SpentError):
        restarted(PuctThompson(), screened, np.random.default_rng(0))
    first, second = list(screened.low)[:STARTS], list(screened.low)[STARTS + PATIENCE :][:STARTS]
    apart = [sum(a != b for a, b in zip(cell, first[-1], strict=True)) for cell in second]
    assert np.mean(apart) > 2.0


def test_neighbours_differ_in_one_part() -> None:
    around = neighbours((0, 1, 2), (2, 3, 3))
    assert len(around) == len(set(around)) == 1 + 2 + 2
    assert all(sum(a != b for a, b in zip(n, (0, 1, 2), strict=True)) == 1 for n in around)


@pytest.mark.parametrize("seed", range(12))
def test_simulated_tables_are_whole_and_repeatable(seed: int) -> None:
    first, second = simulated(seed), simulated(seed)
    assert np.array_equal(first.values, second.values)
    assert np.isfinite(first.values).all()
    assert first.shape == tuple(len(part.variants) for part in first.parts)
    assert 500 <= first.values.size <= 40_000


def _row(arm: str, looks: int, regrets: list[float]) -> Row:
    values = np.array(regrets)
    return Row(
        table="t",
        mode="plain",
        arm=arm,
        looks=looks,
        seeds=len(values),
        regret=float(values.mean()),
        interval=half_width(values),
        hit_rate=0.0,
        milliseconds=0.0,
        regrets=tuple(regrets),
    )


def test_claims_follow_from_rows_and_can_fail() -> None:
    others = [_row("tpe", 50, [1.0, 1.2] * 10), _row("regularized evolution", 50, [2.0, 2.2] * 10)]
    good = claims([*others, _row("policy warm", 50, [0.4, 0.5] * 10)])
    assert len(good) == 3
    assert all(claim.holds for claim in good)
    poor = claims([*others, _row("policy warm", 50, [1.3, 1.2] * 10)])
    assert [claim.holds for claim in poor] == [False, True, False]


def test_a_missing_arm_makes_no_claim() -> None:
    assert claims([_row("tpe", 50, [1.0, 1.1])]) == []


def test_the_document_is_plain_json_and_its_rows_can_be_used_again(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    settings = replace(SETTINGS, names=(), arms=("random",))
    rows = measure(settings, TABLE, "random", random_search)
    result = bench(settings, earlier=rows)
    path.write_text(json.dumps(result.document))
    assert set(json.loads(path.read_text())) == {
        "bench",
        "machine",
        "date",
        "settings",
        "rows",
        "claims",
    }
    assert stored_rows([path]) == rows
    assert "random" in result.text()
    result.plot(tmp_path / "search.png")
    assert (tmp_path / "search.png").stat().st_size > 1000


def test_a_missing_table_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="--tables"):
        read("macro-cifar10", tmp_path)
    with pytest.raises(UsageError, match="no table"):
        read("nonsense", tmp_path)


@recorded
@pytest.mark.tables
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_tables_and_budgets_of_its_own(mode: str) -> None:
    settings = Settings(tables=DATA, mode=mode, seeds=1)
    assert tables_of(settings)
    assert len(settings.budgets) >= 3


@recorded
@pytest.mark.tables
@pytest.mark.parametrize(
    ("name", "looks", "regret"),
    [("macro-cifar10", 50, 0.353), ("nb201-cifar100", 50, 2.411), ("nb201-cifar100", 300, 1.274)],
)
def test_recorded_tables_give_the_known_expectation(name: str, looks: int, regret: float) -> None:
    table = tables.read(name, DATA)
    assert expected_random_regret(table.values, looks) == pytest.approx(regret, abs=0.002)
