"""Arms of the bench of campaigns: honest baselines, equal budgets, and a bench that can go on."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nightlab.agents import catalogue
from nightlab.agents.bench_campaigns.arms import ARMS, STARTS, Tpe, arms_of
from nightlab.agents.bench_campaigns.compare import claims, document, plot
from nightlab.agents.bench_campaigns.run import Row, Settings, jobs, one_rung, run
from nightlab.agents.decide import menu
from nightlab.agents.policy.interface import Archive, Attempt, Context, Head, Outcome
from nightlab.cli import app
from nightlab.errors import UsageError
from nightlab.evals.task import load
from nightlab.memory.report.documents import jsonable
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import Program

ROW = Row(
    arm="random",
    pair=0,
    seed=1,
    gain_percent=1.0,
    search_gain_percent=1.1,
    confirmed=1,
    experiments=9,
    unfit=0,
    trials=30,
    edits=("batch=8",),
    wall_seconds=1.0,
    cpu_seconds=1.0,
)


def context(baseline: Program, others: int = 0) -> Context:
    """A campaign's archive after the baseline and some single edits of it."""
    archive = Archive(menu(("catalogue",)))
    genes = dict(catalogue.current(baseline))
    archive.record(
        Attempt(id="c1-0", program="base", genes=genes, outcome=Outcome.VALID, reward=0.0)
    )
    rng = np.random.default_rng(0)
    able = [o for o in catalogue.operators() if o.applicable(baseline)]
    for number, place in enumerate(rng.permutation(len(able))[:others], 1):
        edit = able[int(place)]
        archive.record(
            Attempt(
                id=f"c1-{number}",
                program=str(number),
                parent="c1-0",
                genes={**genes, edit.part: edit.variant},
                part=edit.part,
                variant=edit.variant,
                outcome=Outcome.VALID,
                reward=0.1 if number == 1 else -0.1,
            )
        )
    return Context(campaign="c1", id="next", archive=archive, budget_left=0.5)


@pytest.fixture(scope="module")
def baseline() -> Program:
    return load("byte_lm").baseline


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_decides_on_an_edit_that_changes_the_program(arm: str, baseline: Program) -> None:
    decision = ARMS[arm](baseline).choose(context(baseline, 3), np.random.default_rng(1))
    assert decision.edits
    assert decision.author == "catalogue"


def test_the_random_arm_knows_no_favourites(baseline: Program) -> None:
    arm, made = ARMS["random"](baseline), context(baseline, 4)
    for seed in range(5):
        for choice in arm.choose(made, np.random.default_rng(seed)).choices:
            allowed = {mu for mu, mask in zip(choice.mu, choice.mask, strict=True) if mask}
            assert max(allowed) - min(allowed) < 1e-9


def test_puct_picks_parents_and_nothing_else(baseline: Program) -> None:
    decision = ARMS["puct"](baseline).choose(context(baseline, 4), np.random.default_rng(0))
    parent, part = decision.choice(Head.PARENT), decision.choice(Head.PART)
    assert max(parent.mu) > 0.5
    assert max(part.mu) == pytest.approx(1 / sum(part.mask))


def test_tpe_edits_the_baseline_into_whole_programs_that_can_be_made(baseline: Program) -> None:
    made = context(baseline, STARTS + 4)
    sizes = []
    for seed in range(4):
        decision = Tpe(baseline).choose(made, np.random.default_rng(seed))
        assert decision.parent == "c1-0"
        program = baseline
        for part, variant in decision.edits:
            operator = catalogue.operator(part, variant)
            assert operator.applicable(program)
            program = operator.apply(program)
        sizes.append(len(decision.edits))
    assert max(sizes) > 1


def test_tpe_begins_with_random_edits_of_the_baseline(baseline: Program) -> None:
    decision = Tpe(baseline).choose(context(baseline, 3), np.random.default_rng(0))
    assert decision.parent == "c1-0"
    assert len(decision.edits) <= 3


def test_unknown_arms_are_refused_and_doubles_dropped() -> None:
    assert arms_of(["random", " puct", "random"]) == ("random", "puct")
    with pytest.raises(UsageError, match="tpe"):
        arms_of(["grid"])
    with pytest.raises(UsageError, match="at least one"):
        arms_of([""])


def test_every_arm_runs_every_pair_and_none_is_always_first() -> None:
    todo = list(jobs(Settings(arms=("a", "b", "c"), pairs=3, trials=9)))
    assert len(set(todo)) == 9
    firsts = [next(arm for pair, arm in todo if pair == number) for number in range(3)]
    assert Counter(firsts) == {"a": 1, "b": 1, "c": 1}


def test_a_claim_needs_its_whole_interval_above_zero() -> None:
    rows = [
        replace(ROW, arm=arm, pair=pair, gain_percent=gain)
        for arm, gains in {"policy": (3.0, 3.1, 2.9), "random": (1.0, 1.2, 0.9)}.items()
        for pair, gain in enumerate(gains)
    ]
    (claim,) = claims(rows)
    assert claim.holds
    assert claim.measured == pytest.approx(1.967, abs=1e-3)
    noisy = [replace(row, gain_percent=row.gain_percent * (row.pair - 1)) for row in rows]
    assert not claims(noisy)[0].holds
    assert claims(rows[:1] + rows[3:4]) == []


def test_the_document_is_json_and_the_plot_is_drawn(tmp_path: Path) -> None:
    pair = [ROW, replace(ROW, arm="policy", gain_percent=2.0)]
    rows = [replace(row, pair=number) for number in (0, 1) for row in pair]
    made = document(Settings(arms=("random", "policy"), pairs=2, trials=30), rows)
    (told,) = json.loads(json.dumps(jsonable(made), allow_nan=False))["claims"]
    assert told["pairs"] == 2
    plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_the_copied_task_has_one_rung(tiny_task: Path, tmp_path: Path) -> None:
    copy = one_rung(str(tiny_task), "full", tmp_path / "task")
    assert [rung.name for rung in load(str(copy)).rungs] == ["full"]
    assert load(str(copy)).memory_bytes == load(str(tiny_task)).memory_bytes
    with pytest.raises(UsageError, match="huge"):
        one_rung(str(tiny_task), "huge", tmp_path / "other")


@pytest.mark.slow
def test_real_campaigns_run_at_equal_trials_and_are_not_run_twice(
    tiny_task: Path, tmp_path: Path
) -> None:
    settings = Settings(arms=("random", "tpe"), pairs=1, trials=24, task=str(tiny_task))
    out, home = tmp_path / "out", tmp_path / "home"
    said: list[str] = []
    sandbox = ProcessSandbox()
    try:
        rows = run(settings, out, home, sandbox, said.append)
        again = run(settings, out, home, sandbox, said.append)
    finally:
        sandbox.close()
    assert again == rows
    assert len(said) == 4
    for row in rows:
        assert 12 <= row.trials <= 24
        assert row.experiments >= 2
    other = replace(settings, trials=30)
    with pytest.raises(UsageError, match="trials 24"):
        run(other, out, home, sandbox, said.append)


def test_a_bad_arm_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "campaigns", "--arms", "grid", "--out", str(tmp_path)])
    assert isinstance(done.exception, UsageError)
