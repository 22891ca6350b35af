"""What is ranked is ranked by a lower bound, and what is reported was measured on fresh seeds."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nightlab.agents import judge, start
from nightlab.agents.decide import Decider, menu
from nightlab.agents.judge import Confirmation
from nightlab.agents.lab import Lab
from nightlab.agents.policy.bandit import PuctThompson
from nightlab.agents.policy.puct import puct
from nightlab.agents.start import Order
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Arm, Estimate
from nightlab.memory.records import Order as By
from nightlab.memory.report.details import detail
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

NOISE = (3.00, 3.02, 2.98, 3.01, 2.99)


@pytest.fixture
def lab(tiny_task: Path, tmp_path: Path) -> Iterator[Lab]:
    """A campaign whose baseline scored about 3.0 on every seed of the noise floor."""
    objective = Objective(metric="val_bpb", direction=Direction.LOWER, budget=Budget(trials=60))
    order = Order(goal="lower val_bpb", objective=objective, task=str(tiny_task), seed=1)
    sandbox = ProcessSandbox()
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "artifacts") as ledger:
        made = start.begin(order, ledger, sandbox, tmp_path).lab
        base = proposed(made, "VALUE = 0", None)
        for rung in made.plan.rungs:
            for seed, value in zip(made.seeds(Purpose.NOISE, 5), NOISE, strict=True):
                score(made, base, value, seed, Purpose.NOISE, rung=rung.name)
        ledger.conclude_experiment(made.lease, base, Verdict.CONFIRMED, "it is", incumbent=True)
        yield made
    sandbox.close()


def proposed(lab: Lab, text: str, parent: str | None) -> str:
    program = Program({"program.py": text})
    experiment = lab.ledger.begin_experiment(lab.lease).id
    lab.ledger.put_program(program, tree_hash=text, origin="catalogue")
    lab.ledger.set_proposal(
        experiment, program=program.id, parent=parent, author="catalogue", part="norm",
        operator="norm:x",
    )  # fmt: skip
    return experiment


def score(
    lab: Lab,
    experiment: str,
    value: float,
    seed: int,
    purpose: Purpose,
    *,
    arm: Arm = Arm.CANDIDATE,
    rung: str = "small",
) -> None:
    of = experiment if arm is Arm.CANDIDATE else lab.baseline
    program = lab.ledger.experiment(of).program
    assert program is not None
    trial = lab.ledger.begin_trial(
        lab.lease, experiment, program, rung=rung, seed=seed, purpose=purpose, arm=arm
    )
    run = Run(ending=Ending.FINISHED, tier=Tier.PROCESS)
    measured = Measurement(metrics={"val_bpb": value})
    lab.ledger.finish_trial(trial, run, measured, total_seconds=1.0)


def screened(lab: Lab, name: str, gains: Sequence[float]) -> str:
    """A screened experiment with these gains over the baseline on the first seeds."""
    experiment = proposed(lab, f"VALUE = {name!r}", lab.baseline)
    for seed, base, gain in zip(lab.seeds(Purpose.SCREEN, 5), NOISE, gains, strict=False):
        score(lab, experiment, base - gain, seed, Purpose.SCREEN)
    lab.ledger.conclude_experiment(lab.lease, experiment, Verdict.SCREENED, "better")
    return experiment


def test_one_lucky_trial_ranks_below_two_good_ones_as_a_parent(lab: Lab) -> None:
    lucky = screened(lab, "lucky", [0.060])
    good = screened(lab, "good", [0.055, 0.055])
    archive = Decider(lab, PuctThompson(), menu(("catalogue",))).archive
    reward = {name: archive.attempts[row].reward for name, row in archive.row.items()}
    (low, high) = (reward[lucky], reward[good])
    assert low is not None
    assert high is not None
    assert high > low
    trials = lab.ledger.trials(experiment=lucky)
    assert judge.screening_gain(lab, lucky, lab.baseline) == pytest.approx(0.060)
    assert judge.reward(lab, trials) == reward[lucky]
    scores = puct(archive, [archive.row[lucky], archive.row[good]])
    assert scores[1] > scores[0]


def test_the_reported_gain_knows_nothing_of_the_screening_that_chose_the_program(lab: Lab) -> None:
    chosen = screened(lab, "chosen", [5.0, 5.0])
    confirmation = Confirmation(experiment=chosen, against=lab.baseline, number=1)
    rung, fresh = lab.plan.confirm.name, [0.10, 0.12, 0.11]
    seeds = lab.seeds(Purpose.CONFIRM, 3, confirmation=1)
    for seed, gain in zip(seeds, fresh, strict=True):
        score(lab, chosen, 3.0 - gain, seed, Purpose.CONFIRM, rung=rung)
        score(lab, chosen, 3.0, seed, Purpose.CONFIRM, arm=Arm.INCUMBENT, rung=rung)
    found = judge.estimate(lab, confirmation)
    assert found.gain == pytest.approx(0.11)
    assert found.pairs == 3
    used = {t.seed for t in judge.confirmation_trials(lab, confirmation)}
    screening = {t.seed for t in lab.ledger.trials(experiment=chosen) if t.seed not in used}
    assert used == set(seeds)
    assert screening == set(lab.seeds(Purpose.SCREEN, 2))


def concluded(lab: Lab, name: str, gain: float, low: float) -> str:
    experiment = proposed(lab, f"VALUE = {name!r}", lab.baseline)
    estimate = Estimate(gain=gain, gain_low=low, gain_high=2 * gain - low, pairs=3, rung="small")
    lab.ledger.conclude_experiment(lab.lease, experiment, Verdict.DISCARDED, "no", estimate)
    return experiment


def test_tables_rank_by_the_lower_end_of_the_interval(lab: Lab) -> None:
    lucky = concluded(lab, "lucky", gain=0.5, low=-0.2)
    sure = concluded(lab, "sure", gain=0.2, low=0.1)
    page = lab.ledger.page(lab.campaign.id, order=By.GAIN)
    assert [entry.experiment.id for entry in page.experiments[:2]] == [sure, lucky]
    (part,) = (p for p in detail(lab.ledger, lab.campaign.id).parts if p.name == "norm")
    assert part.best is not None
    assert part.best.id == sure
