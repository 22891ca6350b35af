"""Early abort in real trials: who is stopped, who is not, and what a forged curve is worth."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.agents import catalogue, start
from nightlab.agents.campaign import baseline
from nightlab.agents.early import Listener, Watch, bends, stored
from nightlab.agents.lab import Lab
from nightlab.agents.start import Order
from nightlab.evals.abort import AbortRule, Curve, Fate, Finished
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import CHECKUP, Trial
from nightlab.memory.report.aborts import aborts, described
from nightlab.memory.report.summary import document, summarise
from nightlab.sandbox.process import ProcessSandbox
from nightlab.sandbox.protocol import AbortError
from nightlab.vocabulary import Budget, Direction, Ending, Objective, Program, Purpose, Verdict

if TYPE_CHECKING:
    from tests.agents.ended import trial
else:
    from ended import trial

EAGER = AbortRule(min_finished=4, least_chance=0.25, audit_share=0.0)
"""Four finished trials are enough here; in a campaign it takes twenty."""
CALM = AbortRule(min_finished=4, least_chance=0.02, audit_share=0.0)
"""Hardly ever ends a program of the baseline's own level; against a forged curve it still would."""
AUDITING = AbortRule(min_finished=4, least_chance=0.25, audit_share=1.0)
RATE = "learning_rate: float = 3e-3"
HOPELESS = "learning_rate: float = 1e-4"
ROSY = """
class Model(Model):
    def auxiliary_loss(self):
        return torch.tensor(-100.0)
"""
"""Makes the reported loss 100 nats lower than it is, without any effect on training."""


@pytest.fixture(scope="module")
def lab(tiny_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A campaign with its baseline and four finished trials on the first screening seed."""
    home, sandbox = tmp_path_factory.mktemp("home"), ProcessSandbox()
    task = home / "task"
    shutil.copytree(tiny_task, task)
    toml = (task / "task.toml").read_text().replace("cpu_seconds = 0.4", "cpu_seconds = 1.5")
    (task / "task.toml").write_text(toml)
    objective = Objective(metric="val_bpb", direction=Direction.LOWER, budget=Budget(trials=60))
    order = Order(goal="lower val_bpb", objective=objective, task=str(task), seed=1)
    with Ledger.open(f"sqlite:///{home}/ledger.db", home / "artifacts") as ledger:
        made = start.begin(order, ledger, sandbox, home).lab
        baseline(made)
        for rate in ("3e-4", "6e-4", "1e-3", "6e-3"):
            trained(made, text(made).replace(RATE, f"learning_rate: float = {rate}"), "catalogue")
        yield made
        sandbox.close()


def text(lab: Lab) -> str:
    return lab.bench.task.baseline.files["program.py"]


def proposed(lab: Lab, source: str, author: str) -> str:
    """An experiment with a program of its own, by whomever."""
    program = Program({"program.py": source})
    experiment = lab.ledger.begin_experiment(lab.lease).id
    stored_program = lab.ledger.put_program(
        program, tree_hash=catalogue.tree_hash(program), origin=author
    )
    lab.ledger.set_proposal(
        experiment, program=stored_program.id, parent=lab.baseline, author=author, hypothesis="h"
    )
    return experiment


def trained(lab: Lab, source: str, author: str, rule: AbortRule | None = None) -> Trial:
    """Its first screening trial, watched where there is a rule."""
    experiment = proposed(lab, source, author)
    seed = lab.seeds(Purpose.SCREEN, 1)[0]
    watch = Listener(lab, rule).watch(experiment, seed) if rule else None
    return lab.trial(experiment, lab.plan.screen, seed, Purpose.SCREEN, watch=watch)


def ending(trial: Trial) -> Ending:
    assert trial.run is not None
    return trial.run.ending


@pytest.mark.slow
def test_a_hopeless_trial_is_stopped_before_its_budget_is_spent(lab: Lab) -> None:
    trial = trained(lab, text(lab).replace(RATE, HOPELESS), "catalogue", EAGER)
    assert ending(trial) is Ending.ABORTED
    assert trial.measurement is None
    seen = json.loads(lab.ledger.artifacts.get(trial.artifacts[CHECKUP].sha256))
    assert seen["fate"] == Fate.ABORT
    assert seen["lead"] < 0
    assert 0.25 <= seen["fraction"] < 1
    assert seen["reference"].startswith(lab.baseline)
    kinds = [e.kind for e in lab.ledger.events(lab.campaign.id) if e.experiment == trial.experiment]
    assert kinds.count("abort") == 1
    assert document(summarise(lab.ledger, lab.campaign.id))["aborts"] != {}


@pytest.mark.slow
def test_a_would_be_abort_that_the_coin_spares_is_finished_and_counted_as_an_audit(
    lab: Lab,
) -> None:
    before = aborts(lab.ledger, lab.campaign)
    source = text(lab).replace(RATE, "learning_rate: float = 1.1e-4")
    trial = trained(lab, source, "catalogue", AUDITING)
    assert ending(trial) is Ending.FINISHED
    after = aborts(lab.ledger, lab.campaign)
    assert set(after.audited) - set(before.audited) == {trial.id}
    assert trial.id not in after.wrong
    assert after.rate is not None
    assert (after.rate.low, after.rate.value) == (0.0, 0.0)
    assert "finished to audit that" in described(after)
    shown = document(summarise(lab.ledger, lab.campaign.id))["aborts"]
    assert isinstance(shown, Mapping)
    assert shown["audited"] == len(after.audited)
    assert shown["false_abort_interval"] == after.rate.range


@pytest.mark.slow
def test_a_forged_rosy_curve_escapes_the_abort_and_earns_nothing(lab: Lab) -> None:
    source = text(lab).replace(RATE, HOPELESS.replace("1e-4", "1.2e-4")) + ROSY
    trial = trained(lab, source, "a-model", EAGER)
    assert ending(trial) is Ending.FINISHED
    base = next(t for t in lab.ledger.trials(experiment=lab.baseline) if t.seed == trial.seed)
    mine, theirs = trial.value("val_bpb"), base.value("val_bpb")
    assert mine is not None
    assert theirs is not None
    assert mine > theirs + 0.5


@pytest.mark.slow
def test_an_incumbent_with_a_forged_curve_stops_nobody(lab: Lab) -> None:
    """Its curve is 100 nats below everybody's, and honest challengers go on as before."""
    forged = trained(lab, text(lab) + ROSY, "a-model")
    lab.ledger.conclude_experiment(
        lab.lease, forged.experiment, Verdict.CONFIRMED, "by the test", incumbent=True
    )
    assert lab.incumbent() == forged.experiment
    level = text(lab).replace(RATE, "learning_rate: float = 3.1e-3")
    watch = Listener(lab, EAGER).watch(proposed(lab, level, "catalogue"), forged.seed)
    assert watch is not None
    assert watch.reference.experiment == lab.baseline
    assert min(watch.curve.losses) > 0
    assert all(min(one.challenger.losses) > 0 for one in watch.finished)
    assert ending(trained(lab, level + "\n# once more\n", "catalogue", CALM)) is Ending.FINISHED


@pytest.mark.slow
def test_a_goal_that_is_no_matter_of_the_loss_has_no_early_abort(lab: Lab) -> None:
    class Sized(Lab):
        @property
        def objective(self) -> Objective:
            return Objective(metric="params", direction=Direction.LOWER)

    sized = Sized(
        ledger=lab.ledger, lease=lab.lease, campaign=lab.campaign, bench=lab.bench, plan=lab.plan
    )
    experiment = proposed(lab, text(lab) + "\nSMALL = 1\n", "catalogue")
    assert Listener(sized, EAGER).watch(experiment, lab.seeds(Purpose.SCREEN, 1)[0]) is None


def watch(rule: AbortRule, coin: float = 0.5) -> Watch:
    """A watch over a challenger of a made-up reference, with a history that follows its leads."""
    base = Curve((0.1, 1.0), (4.0, 3.0))
    past = [
        Finished(
            challenger=Curve((0.1, 1.0), (4.0 - gain, 3.0 - gain)),
            incumbent=base,
            gain=gain + noise,
        )
        for gain, noise in zip((-0.3, -0.2, -0.1, 0.1, 0.2), (1e-3, -1e-3) * 3, strict=False)
    ]
    return Watch(
        reference=trial(), curve=base, finished=tuple(past), coin=coin, touches_schedule=False,
        rule=rule,
    )  # fmt: skip


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(("", "0.5"))


@given(st.lists(st.fixed_dictionaries({"progress": anything, "loss": anything}), max_size=30))
def test_no_report_whatever_its_form_breaks_the_watch(
    points: list[dict[str, object]],
) -> None:
    listening = watch(EAGER)
    try:
        for point in points:
            listening.hear(point)
    except AbortError:
        assert listening.checkup is not None
    fractions = [fraction for fraction, _ in listening.points]
    assert fractions == sorted(set(fractions))
    evidence = listening.evidence()
    assert evidence is None or json.loads(evidence)["reference"] == trial().id


def test_a_curve_is_judged_at_checkpoints_only_and_an_audit_once() -> None:
    listening = watch(AUDITING)
    for fraction in (0.05, 0.2):
        listening.hear({"progress": fraction, "loss": 6.0})
    assert listening.checkup is None
    listening.hear({"progress": 0.26, "loss": 6.0})
    first = listening.checkup
    assert first is not None
    assert first.fate is Fate.AUDIT
    listening.hear({"progress": 0.8, "loss": 9.0})
    assert listening.checkup is first
    listening.restart()
    assert listening.evidence() is None


def test_a_diverged_loss_that_is_no_number_is_stopped_and_its_evidence_is_still_json() -> None:
    listening = watch(AbortRule(audit_share=0.0))
    listening.hear({"progress": 0.1, "loss": 5.0})
    with pytest.raises(AbortError, match="diverged"):
        listening.hear({"progress": 0.3, "loss": math.nan})
    evidence = listening.evidence()
    assert evidence is not None
    assert json.loads(evidence)["lead"] is None


def test_a_file_of_rubbish_is_no_curve_and_a_broken_line_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "curve.jsonl"
    file.write_text("not json\n[1]\n{}\n")
    assert stored(file) is None
    file.write_text('{"progress": 0.1, "loss": 2.0}\nbroken\n{"progress": 0.2, "loss": 1.0}\n')
    assert stored(file) == Curve((0.1, 0.2), (2.0, 1.0))


def test_an_edit_of_the_schedule_is_told_from_one_of_the_model() -> None:
    from nightlab.evals.task import load

    base = load("byte_lm").baseline
    slower = catalogue.operator("learning_rate", "1e-3").apply(base)
    wider = catalogue.operator("width", "96").apply(base)
    assert bends(slower, base)
    assert not bends(wider, base)
