"""What a campaign learns of its two rungs, from rows in a real ledger."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nightlab.agents import start
from nightlab.agents.lab import Lab
from nightlab.agents.rungs import Rungs
from nightlab.agents.start import Order
from nightlab.evals.rungs import MIN_PROGRAMS
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Estimate
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import (
    Budget,
    Direction,
    Ending,
    Measurement,
    Objective,
    Program,
    Purpose,
    Run,
    Tier,
    Verdict,
)


@pytest.fixture
def lab(tiny_task: Path, tmp_path: Path) -> Iterator[Lab]:
    """A campaign whose two rungs differ, and whose baseline scored 3.0 on the screening seed."""
    objective = Objective(metric="val_bpb", direction=Direction.LOWER, budget=Budget(seconds=9000))
    order = Order(goal="lower val_bpb", objective=objective, task=str(tiny_task), seed=1)
    sandbox = ProcessSandbox()
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "artifacts") as ledger:
        made = start.begin(order, ledger, sandbox, tmp_path).lab
        assert made.plan.screen != made.plan.confirm
        scored(made, made.ledger.begin_experiment(made.lease).id, 3.0, Purpose.NOISE)
        yield made
    sandbox.close()


def scored(lab: Lab, experiment: str, value: float, purpose: Purpose = Purpose.SCREEN) -> None:
    program = Program({"program.py": f"VALUE = {value}  # {experiment}"})
    lab.ledger.put_program(program, tree_hash=experiment, origin="catalogue")
    trial = lab.ledger.begin_trial(
        lab.lease,
        experiment,
        program.id,
        rung=lab.plan.screen.name,
        seed=lab.seeds(Purpose.SCREEN, 1)[0],
        purpose=purpose,
    )
    run = Run(ending=Ending.FINISHED, tier=Tier.PROCESS)
    lab.ledger.finish_trial(trial, run, Measurement(metrics={"val_bpb": value}), total_seconds=1.0)


def confirmed_on_both(lab: Lab, low: float, high: float) -> str:
    """An experiment with a gain on each rung."""
    experiment = lab.ledger.begin_experiment(lab.lease).id
    scored(lab, experiment, 3.0 - low)
    estimate = Estimate(gain=high, pairs=3, rung=lab.plan.confirm.name, against=lab.baseline)
    lab.ledger.conclude_experiment(lab.lease, experiment, Verdict.DISCARDED, "no", estimate)
    return experiment


def test_margins_widen_or_narrow_with_what_was_measured_and_the_log_says_so(lab: Lab) -> None:
    rungs = Rungs(lab)
    assert rungs.rule().margins == (0.25, 0.5)
    for number in range(MIN_PROGRAMS + 4):
        rungs.learn(confirmed_on_both(lab, 0.1 * number, 0.2 * number))
    assert rungs.rule().margins == pytest.approx((0.5, 1.0), rel=0.05)
    said = [e.message for e in lab.ledger.events(lab.campaign.id) if e.kind == "rungs"]
    assert len(said) == MIN_PROGRAMS + 4
    assert "are needed" in said[0]
    assert "rank correlation 1.00" in said[-1]


def test_a_rung_that_had_more_than_its_even_share_takes_only_what_is_clearly_better(
    lab: Lab,
) -> None:
    rungs = Rungs(lab)
    experiment = confirmed_on_both(lab, 0.1, 0.1)
    rungs.learn(experiment)
    assert rungs.rule().margins == (0.25, 0.5)
    confirming = lab.ledger.begin_experiment(lab.lease).id
    scored(lab, confirming, 2.9, Purpose.CONFIRM)
    assert rungs.rule().margins == (0.25, 0.5), "one second on each"
    another = lab.ledger.begin_experiment(lab.lease).id
    scored(lab, another, 2.8, Purpose.CONFIRM)
    assert rungs.rule().margins == (0.5, 1.0)
    assert "has had more time than" in rungs.describe()


def test_a_resumed_campaign_knows_the_same_link(lab: Lab) -> None:
    rungs = Rungs(lab)
    for number in range(MIN_PROGRAMS):
        rungs.learn(confirmed_on_both(lab, (-1) ** number * 0.1 * number, 0.1 * number))
    assert Rungs(lab).link() == rungs.link()
    assert Rungs(lab).describe() == rungs.describe()


def test_an_experiment_without_a_confirmation_teaches_nothing(lab: Lab) -> None:
    rungs, experiment = Rungs(lab), lab.ledger.begin_experiment(lab.lease).id
    scored(lab, experiment, 2.5)
    lab.ledger.conclude_experiment(lab.lease, experiment, Verdict.DISCARDED, "no")
    rungs.learn(experiment)
    link = rungs.link()
    assert link is not None
    assert link.programs == 0
