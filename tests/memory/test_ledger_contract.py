"""What every ledger promises, whichever database is under it."""

import math
from dataclasses import replace
from typing import cast

import pytest

from nightlab.errors import LedgerError, UsageError
from nightlab.memory.example import Clock
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import (
    Arm,
    Artifact,
    CampaignStatus,
    Decision,
    Estimate,
    Lease,
    Trial,
    TrialStatus,
)
from nightlab.vocabulary import (
    Budget,
    Constraint,
    Direction,
    Ending,
    Integrity,
    Measurement,
    Objective,
    Program,
    Purpose,
    Run,
    Split,
    Tier,
    Verdict,
)

OBJECTIVE = Objective(
    metric="val_bpb",
    direction=Direction.LOWER,
    target_percent=8.0,
    constraints=(Constraint("params", "<=", 1.0, relative=True),),
    budget=Budget(trials=9, seconds=60.0, usd=0.5),
)
FINE = Run(
    ending=Ending.FINISHED,
    tier=Tier.BWRAP,
    exit_code=0,
    wall_seconds=5.0,
    cpu_seconds=4.5,
    peak_memory_bytes=5 << 30,
    startup_seconds=0.25,
    log="step 1\nstep 2 \N{SNOWMAN}",
    reason="it's done; DROP TABLE trials",
    image="sha256:1",
)
GONE = Run(ending=Ending.LOST, tier=Tier.BWRAP, cpu_seconds=2.0, reason="the host went away")
SCORE = Measurement(
    metrics={"val_bpb": 3.5, "params": 2e5},
    integrity=Integrity.SUSPECT,
    reasons=("much faster than its parent",),
    scoring_seconds=0.5,
)
DECISION = Decision(
    head="parent",
    action="c1-0",
    features={"gain": [0.1, -0.25], "depth": 3},
    mask=[True, False],
    distribution={"c1-0": 0.75, "c1-1": 0.25},
    policy="puct",
    version="3",
    propensity=0.75,
    seed=2**40,
)


def begin(ledger: Ledger, owner: str = "first:1") -> Lease:
    """A campaign with a supervisor."""
    campaign = ledger.create_campaign(
        "lower val_bpb",
        OBJECTIVE,
        task="byte_lm",
        tier=Tier.BWRAP,
        proposer="catalogue",
        seed=2**40,
        workers=2,
        settings={"corpus_hash": "ab12", "lengths": [1, 2]},
    )
    return ledger.acquire_lease(campaign.id, owner, seconds=60)


def propose(ledger: Ledger, lease: Lease, text: str = "x = 1\n", parent: str | None = None) -> str:
    """An experiment that tries a program; its id."""
    program = Program({"model.py": text})
    ledger.put_program(program, tree_hash=f"tree of {text}", origin="catalogue")
    experiment = ledger.begin_experiment(lease)
    ledger.set_proposal(experiment.id, program=program.id, parent=parent, author="catalogue")
    return experiment.id


def program_of(ledger: Ledger, experiment: str) -> str:
    """The id of the program it tries."""
    program = ledger.experiment(experiment).program
    assert program is not None
    return program


def start(
    ledger: Ledger, lease: Lease, experiment: str, purpose: Purpose = Purpose.SCREEN
) -> Trial:
    """Its trial on the small rung with seed 1."""
    program = program_of(ledger, experiment)
    return ledger.begin_trial(lease, experiment, program, rung="small", seed=1, purpose=purpose)


def test_a_campaign_comes_back_as_it_was_created(ledger: Ledger) -> None:
    lease = begin(ledger)
    campaign = ledger.campaign(lease.campaign)
    assert campaign.id == "c1"
    assert campaign.objective == OBJECTIVE
    assert campaign.seed == 2**40
    assert campaign.settings == {"corpus_hash": "ab12", "lengths": [1, 2]}
    assert campaign.created == ledger.clock()
    assert begin(ledger).campaign == "c2"
    assert [one.id for one in ledger.campaigns()] == ["c1", "c2"]


def test_a_program_is_stored_once_and_keeps_its_first_origin(ledger: Ledger) -> None:
    program = Program({"model.py": "x = 'ä'\n", "train.py": ""})
    first = ledger.put_program(program, tree_hash="t", origin="baseline")
    again = ledger.put_program(program, tree_hash="t", parent=first.id, origin="catalogue")
    assert again == first == ledger.program(program.id)
    assert first.program == program


def test_experiments_are_numbered_from_the_baseline_on(ledger: Ledger) -> None:
    lease = begin(ledger)
    assert [ledger.begin_experiment(lease).id for _ in range(3)] == ["c1-0", "c1-1", "c1-2"]
    other = begin(ledger)
    assert ledger.begin_experiment(other).id == "c2-0"
    assert [one.number for one in ledger.experiments("c1", under_way=True)] == [0, 1, 2]


def test_a_proposal_comes_back_and_is_final_once_concluded(ledger: Ledger) -> None:
    lease = begin(ledger)
    base = propose(ledger, lease)
    program = ledger.put_program(Program({"model.py": "y\n"}), tree_hash="y", origin="m")
    experiment = ledger.begin_experiment(lease).id
    proposed = ledger.set_proposal(
        experiment,
        program=program.id,
        parent=base,
        author="a model",
        operator="position",
        part="attention",
        hypothesis="it's better",
        edits=["position=rotary", "width=96"],
        lines_added=7,
        lines_removed=2,
    )
    assert ledger.experiment(experiment) == proposed
    assert proposed.edits == ("position=rotary", "width=96")
    ledger.conclude_experiment(lease, experiment, Verdict.DISCARDED, "no better")
    with pytest.raises(LedgerError, match="concluded already"):
        ledger.set_proposal(experiment, program=program.id, parent=base, author="late")


def test_the_first_decision_under_a_head_stands(ledger: Ledger) -> None:
    experiment = propose(ledger, begin(ledger))
    assert ledger.record_decision(experiment, DECISION) == DECISION
    assert ledger.record_decision(experiment, replace(DECISION, action="c1-1")) == DECISION
    assert ledger.decisions(experiment) == [DECISION]


def test_the_heads_of_a_decision_are_stored_together_or_not_at_all(ledger: Ledger) -> None:
    experiment = propose(ledger, begin(ledger))
    broken = replace(DECISION, head="part", propensity=cast(float, "no number"))
    with pytest.raises(LedgerError):
        ledger.record_decisions(experiment, [DECISION, broken])
    assert ledger.decisions(experiment) == []
    assert ledger.record_decisions(experiment, [DECISION]) == [DECISION]


def test_a_trial_comes_back_with_its_run_measurement_and_artifacts(ledger: Ledger) -> None:
    lease = begin(ledger)
    experiment = propose(ledger, lease)
    program = program_of(ledger, experiment)
    trial = ledger.begin_trial(
        lease, experiment, program, rung="small", seed=2**40, purpose=Purpose.SCREEN
    )
    assert trial.id == f"c1-0/small/{2**40}"
    files = {"curve.jsonl": Artifact(sha256="ab", bytes=12)}
    done = ledger.finish_trial(trial, FINE, SCORE, total_seconds=7.0, artifacts=files)
    assert (done.run, done.measurement, done.artifacts) == (FINE, SCORE, files)
    assert done.status is TrialStatus.FINISHED
    assert done.overhead_seconds == pytest.approx(1.5)
    assert done == ledger.trial(trial.id) == ledger.trials(experiment=experiment)[0]


def test_beginning_a_finished_trial_returns_it_untouched(ledger: Ledger) -> None:
    lease = begin(ledger)
    experiment = propose(ledger, lease)

    def again() -> Trial:
        return ledger.begin_trial(
            lease,
            experiment,
            program_of(ledger, experiment),
            rung="small",
            seed=1,
            purpose=Purpose.CONFIRM,
            arm=Arm.INCUMBENT,
        )

    trial = again()
    done = ledger.finish_trial(trial, FINE, SCORE, total_seconds=7.0)
    assert trial.id == "c1-0/small/1/confirm/incumbent"
    assert again() == done


def test_only_the_newest_attempt_may_finish_and_only_once(ledger: Ledger) -> None:
    lease = begin(ledger)
    experiment = propose(ledger, lease)
    first = start(ledger, lease, experiment)
    second = start(ledger, lease, experiment)
    assert (first.attempt, second.attempt) == (1, 2)
    with pytest.raises(LedgerError, match="too late"):
        ledger.finish_trial(first, FINE, SCORE, total_seconds=7.0)
    done = ledger.finish_trial(second, FINE, SCORE, total_seconds=7.0)
    with pytest.raises(LedgerError, match="too late"):
        ledger.finish_trial(second, FINE, replace(SCORE, metrics={}), total_seconds=7.0)
    assert ledger.trial(first.id) == done


def test_a_lost_trial_is_no_result_and_may_be_begun_again(ledger: Ledger) -> None:
    lease = begin(ledger)
    experiment = propose(ledger, lease)
    lost = start(ledger, lease, experiment)
    assert ledger.finish_trial(lost, GONE, None, total_seconds=3.0).status is TrialStatus.LOST
    assert ledger.spent("c1").trials == 0
    again = start(ledger, lease, experiment)
    assert again.attempt == 2
    assert ledger.finish_trial(again, FINE, SCORE, total_seconds=7.0).run == FINE
    assert ledger.spent("c1").cpu_seconds == pytest.approx(FINE.cpu_seconds + GONE.cpu_seconds)
    assert [fault.ending for fault in ledger.faults("c1")] == [Ending.LOST]


def test_the_images_of_a_campaign_are_named_once_each(ledger: Ledger) -> None:
    lease = begin(ledger)
    experiment = propose(ledger, lease)
    images = ("sha256:b", "sha256:a", "sha256:b", "")
    for purpose, image in zip(Purpose, images, strict=True):
        trial = start(ledger, lease, experiment, purpose)
        ledger.finish_trial(trial, replace(FINE, image=image), SCORE, total_seconds=7.0)
    assert ledger.images("c1") == ["sha256:a", "sha256:b"]


def test_a_trial_key_belongs_to_one_program(ledger: Ledger) -> None:
    lease = begin(ledger)
    experiment = propose(ledger, lease)
    other = ledger.put_program(Program({"model.py": "other\n"}), tree_hash="o", origin="m").id
    start(ledger, lease, experiment)
    with pytest.raises(LedgerError, match="belongs to program"):
        ledger.begin_trial(lease, experiment, other, rung="small", seed=1, purpose=Purpose.SCREEN)


def test_a_second_supervisor_is_told_who_holds_the_campaign(ledger: Ledger) -> None:
    lease = begin(ledger, "host-a:17")
    with pytest.raises(UsageError, match=r"held by host-a:17 until 2026-01-05 22:01:00 UTC"):
        ledger.acquire_lease(lease.campaign, "host-b:18", seconds=60)
    assert ledger.holder("c1") == lease


def test_a_released_campaign_can_be_taken_at_once(ledger: Ledger) -> None:
    lease = begin(ledger)
    ledger.release_lease(lease)
    ledger.release_lease(lease)
    assert ledger.holder("c1") is None
    assert ledger.acquire_lease("c1", "second:2", seconds=60).token == lease.token + 1


def test_a_lease_that_is_renewed_does_not_lapse(ledger: Ledger, clock: Clock) -> None:
    lease = begin(ledger)
    for _ in range(3):
        clock.pass_seconds(50)
        lease = ledger.renew_lease(lease, seconds=60)
    with pytest.raises(UsageError, match="is held by"):
        ledger.acquire_lease("c1", "second:2", seconds=60)


def test_after_a_takeover_every_write_of_the_old_supervisor_is_refused(
    ledger: Ledger, clock: Clock
) -> None:
    old = begin(ledger)
    experiment = propose(ledger, old)
    trial = start(ledger, old, experiment)
    clock.pass_seconds(61)
    new = ledger.acquire_lease("c1", "second:2", seconds=60)
    for write in (
        lambda: ledger.finish_trial(trial, FINE, SCORE, total_seconds=7.0),
        lambda: start(ledger, old, experiment),
        lambda: ledger.begin_experiment(old),
        lambda: ledger.conclude_experiment(old, experiment, Verdict.CONFIRMED, "", incumbent=True),
        lambda: ledger.set_incumbent(old, experiment),
        lambda: ledger.renew_lease(old, seconds=60),
        lambda: ledger.finish_campaign(old, CampaignStatus.FINISHED, ""),
    ):
        with pytest.raises(LedgerError, match=r"second:2 \(lease 2\) does"):
            write()
    assert [one.id for one in ledger.abandoned_trials(new)] == [trial.id]
    assert start(ledger, new, experiment).attempt == 2
    assert ledger.abandoned_trials(new) == []


def test_a_resumed_campaign_counts_only_the_time_it_was_held(ledger: Ledger, clock: Clock) -> None:
    lease = begin(ledger)
    clock.pass_seconds(30)
    ledger.renew_lease(lease, seconds=60)
    clock.pass_seconds(3600)
    assert ledger.spent("c1").wall_seconds == 30
    second = ledger.acquire_lease("c1", "second:2", seconds=60)
    clock.pass_seconds(20)
    assert ledger.spent("c1").wall_seconds == 50
    ledger.finish_campaign(second, CampaignStatus.STOPPED, "ctrl-c")
    ledger.release_lease(second)
    clock.pass_seconds(1000)
    assert ledger.spent("c1").wall_seconds == 50
    assert ledger.campaign("c1").status is CampaignStatus.STOPPED


def test_concluding_twice_is_harmless_and_changing_the_verdict_is_refused(ledger: Ledger) -> None:
    lease = begin(ledger)
    base = propose(ledger, lease)
    ledger.conclude_experiment(lease, base, Verdict.CONFIRMED, "the baseline", incumbent=True)
    new = propose(ledger, lease, "new\n", base)
    estimate = Estimate(
        gain=0.1,
        gain_low=0.05,
        gain_high=0.15,
        pairs=4,
        rung="full",
        against=base,
        alpha_spent=0.01,
        holdout=3.4,
        holdout_gain=0.09,
        holdout_low=-math.inf,
        holdout_high=math.inf,
    )
    first = ledger.conclude_experiment(
        lease, new, Verdict.CONFIRMED, "better", estimate, incumbent=True
    )
    again = ledger.conclude_experiment(lease, new, Verdict.CONFIRMED, "other words")
    assert first == again == ledger.experiment(new)
    assert first.estimate == estimate
    assert ledger.campaign("c1").incumbent == new
    with pytest.raises(LedgerError, match="is concluded as confirmed, not failed"):
        ledger.conclude_experiment(lease, new, Verdict.FAILED, "")
    assert [event.kind for event in ledger.events("c1")].count("confirmed") == 2


def test_a_screened_experiment_may_be_confirmed_later(ledger: Ledger) -> None:
    lease = begin(ledger)
    experiment = propose(ledger, lease)
    ledger.conclude_experiment(lease, experiment, Verdict.SCREENED, "promising")
    done = ledger.conclude_experiment(lease, experiment, Verdict.CONFIRMED, "on fresh seeds")
    assert (done.verdict, done.reason) == (Verdict.CONFIRMED, "on fresh seeds")


def test_an_experiment_of_another_campaign_is_no_incumbent(ledger: Ledger) -> None:
    foreign = propose(ledger, begin(ledger))
    own = begin(ledger)
    with pytest.raises(LedgerError, match="no incumbent for campaign c2"):
        ledger.set_incumbent(own, foreign)


def test_the_first_look_at_the_holdout_stands_and_is_counted(ledger: Ledger) -> None:
    lease = begin(ledger)
    experiment = propose(ledger, lease)
    trial = start(ledger, lease, experiment, Purpose.CONFIRM)
    ledger.finish_trial(trial, FINE, SCORE, total_seconds=7.0)
    assert ledger.holdout_looks("c1") == 0
    look = Measurement(metrics={"val_bpb": 3.6}, scoring_seconds=2.5)
    assert ledger.record_holdout(trial.id, look) == look
    assert ledger.record_holdout(trial.id, Measurement(metrics={"val_bpb": 1.0})) == look
    assert ledger.trial(trial.id).holdout == look
    assert ledger.holdout_looks("c1") == 1
    assert ledger.scoring_seconds("c1", Split.HOLDOUT, 6) == [2.5]


def test_a_metric_that_is_not_finite_comes_back_as_nan(ledger: Ledger) -> None:
    lease = begin(ledger)
    experiment = propose(ledger, lease)
    trial = start(ledger, lease, experiment, Purpose.NOISE)
    score = Measurement(metrics={"val_bpb": math.inf, "params": 2.0})
    ledger.finish_trial(trial, FINE, score, total_seconds=7.0)
    found = ledger.trial(trial.id).measurement
    assert found is not None
    assert math.isnan(found.metrics["val_bpb"])
    assert found.metrics["params"] == 2.0
    assert ledger.noise_values("c1") == []


def test_an_unknown_id_is_answered_with_those_that_exist(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="no campaign 'c1'; none exists yet"):
        ledger.campaign("c1")
    lease = begin(ledger)
    begin(ledger)
    propose(ledger, lease)
    propose(ledger, lease, "two\n")
    with pytest.raises(UsageError, match="no campaign 'c9'; there are c1, c2"):
        ledger.events("c9")
    with pytest.raises(UsageError, match="no experiment 'c1-9'; there are c1-0, c1-1"):
        ledger.experiment("c1-9")
    with pytest.raises(UsageError, match="no campaign 'c9'"):
        ledger.experiment("c9-1")
    with pytest.raises(UsageError, match="no trial"):
        ledger.trial("c1-0/small/1")
    with pytest.raises(UsageError, match="no program"):
        ledger.program("feed")
