"""Spectra in the loop: stored beside the incumbent's, shown, read by the policy, never a reward."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nightlab.agents import campaign, diagnose, spectra, start, subject
from nightlab.agents.lab import Lab
from nightlab.agents.policy import stored
from nightlab.agents.policy.decisions import Head
from nightlab.agents.policy.features import CONTEXT, OPTION_WIDTH, PARENT
from nightlab.agents.policy.interface import Decision, Outcome, Record
from nightlab.agents.policy.network import NetworkScorer
from nightlab.agents.policy.rewards import learning_rewards
from nightlab.agents.start import Order
from nightlab.agents.subject import Inside
from nightlab.errors import UsageError
from nightlab.evals.nerve.hugging_face import Probing
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Spectrum
from nightlab.memory.report import screens
from nightlab.memory.report.documents import experiment_document
from nightlab.memory.report.spectra import TABLE, draw, told
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import Budget, Direction, Objective, Program, Purpose, Verdict

SMALL = {
    "depth: int = 3": "depth: int = 2",
    "width: int = 64": "width: int = 32",
    "context: int = 128": "context: int = 48",
    "batch: int = 32": "batch: int = 6",
}
"""Makes an update so short that a trial of a second has a hundred of them."""


@pytest.fixture(scope="module")
def lab(tiny_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A campaign with a measured baseline (``c1-0``) and one screened experiment (``c1-1``)."""
    folder, home = tmp_path_factory.mktemp("task") / "quick", tmp_path_factory.mktemp("home")
    folder.mkdir()
    folder.joinpath("task.toml").write_text((tiny_task / "task.toml").read_text())
    text = (tiny_task / "program.py").read_text()
    for old, new in SMALL.items():
        assert old in text
        text = text.replace(old, new)
    folder.joinpath("program.py").write_text(text)
    objective = Objective(metric="val_bpb", direction=Direction.LOWER, budget=Budget(trials=30))
    order = Order(goal="lower val_bpb", objective=objective, task=str(folder), seed=1)
    sandbox = ProcessSandbox()
    with Ledger.open(f"sqlite:///{home}/ledger.db", home / "artifacts") as ledger:
        opened = start.begin(order, ledger, sandbox, home).lab
        campaign.baseline(opened)
        _experiment(
            opened, text.replace("learning_rate: float = 3e-3", "learning_rate: float = 9e-3")
        )
        yield opened
    sandbox.close()


def _experiment(lab: Lab, text: str) -> None:
    ledger = lab.ledger
    row = ledger.begin_experiment(lab.lease)
    program = Program({"program.py": text})
    kept = ledger.put_program(program, tree_hash="tree", parent=None, origin="catalogue")
    ledger.set_proposal(
        row.id,
        program=kept.id,
        parent=lab.baseline,
        author="catalogue",
        operator="learning_rate:9e-3",
        part="learning_rate",
        hypothesis="a larger step",
        edits=("learning_rate=9e-3",),
        lines_added=1,
        lines_removed=1,
    )
    lab.trial(row.id, lab.plan.screen, lab.seeds(Purpose.SCREEN, 1)[0], Purpose.SCREEN)


def test_a_screened_experiment_has_rows_by_layer_and_step_beside_its_incumbents(lab: Lab) -> None:
    diagnose.diagnose(lab, "c1-1", "c1-0", Verdict.SCREENED, lab.plan.screen.name)
    before = _stored(lab)
    diagnose.diagnose(lab, "c1-1", "c1-0", Verdict.SCREENED, lab.plan.screen.name)
    assert _stored(lab) == before
    owners = {row.trial.split("/")[0] for row in before}
    assert owners == {"c1-0", "c1-1"}
    rows = [row for row in before if row.layer != TABLE]
    assert {row.layer for row in rows} == {"0", "1"}
    assert {row.values["source"] for row in rows} == {"trainer", "oracle"}
    assert all({"pre", "post"} <= set(row.values) for row in rows)
    for trial in {row.trial for row in rows}:
        mine = [row for row in rows if row.trial == trial]
        assert sum(len(json.dumps(dict(row.values))) for row in mine) < 50_000
        last = max(row.step for row in mine)
        assert {row.values["source"] for row in mine if row.step == last} == {"oracle"}
        assert 10 in {row.step for row in mine}


def _stored(lab: Lab) -> list[Spectrum]:
    trials = [t for name in ("c1-0", "c1-1") for t in lab.ledger.trials(experiment=name)]
    return [row for trial in trials for row in lab.ledger.spectra(trial.id)]


def test_a_discarded_experiment_leaves_no_rows(lab: Lab) -> None:
    held = len(_stored(lab))
    diagnose.diagnose(lab, "c1-1", "c1-0", Verdict.DISCARDED, lab.plan.screen.name)
    assert len(_stored(lab)) == held


def test_the_table_has_z_scores_against_the_incumbent_at_a_step_both_measured(lab: Lab) -> None:
    found = spectra.compare(lab, "c1-1", "c1-0")
    assert found is not None
    assert found.now.step >= 10
    assert found.reference is not None
    assert found.reference.step == found.now.step
    assert found.reference.runs >= 3
    assert len(found.scores()) >= 8
    assert "z against" in found.table()
    prompt = spectra.told(lab, ["c1-1", "c1-0", "c1-1"])
    assert prompt.count("PR_post/D") == 2


def test_show_and_the_report_hold_the_compact_table(lab: Lab, tmp_path: Path) -> None:
    diagnose.diagnose(lab, "c1-1", "c1-0", Verdict.SCREENED, lab.plan.screen.name)
    seen = told(lab.ledger, "c1-1")
    assert seen is not None
    experiment, trials = lab.ledger.experiment("c1-1"), lab.ledger.trials(experiment="c1-1")
    document = experiment_document(experiment, trials, [], {}, (), seen)
    assert json.loads(json.dumps(document["spectra"], allow_nan=False))["against"] == "c1-0"
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(screens.experiment(experiment, trials, [], "val_bpb", (), seen))
    text = console.export_text()
    assert "PR/D after" in text
    assert "early" in text
    draw(seen, tmp_path / "spectra.png")
    assert (tmp_path / "spectra.png").stat().st_size > 5000
    assert told(lab.ledger, "c1-0") is None


def test_the_policy_reads_gains_over_the_baseline_from_the_oracles_spectra(lab: Lab) -> None:
    found = spectra.gains(lab, "c1-1")
    assert set(found) == {"nerve_first", "nerve_last"}
    assert all(-3 < value < 3 for value in found.values())
    assert spectra.gains(lab, "c1-0") == {}
    assert set(spectra.FEATURES.values()) <= set(PARENT)


def test_the_bonus_of_an_experiment_is_bounded_by_its_small_weight(lab: Lab) -> None:
    assert abs(spectra.bonus(lab, "c1-1", "c1-0")) <= 0.02
    assert spectra.bonus(lab, "c1-1", "c1-1") == 0.0


def test_an_experiment_is_shown_by_step_or_with_data_at_rest(lab: Lab, tmp_path: Path) -> None:
    probing = Probing(batches=2, rows=4, length=32, tokens=64)
    series = subject.of_trial(lab.ledger, "c1-1", Inside("process", False, (), probing))
    assert "self-reported" in series.about
    assert {reading.step for reading in series.series} >= {10}
    text = tmp_path / "text.py"
    text.write_text("import json\n" * 200)
    inside = Inside("process", False, [text], probing)
    still = subject.of_trial(lab.ledger, "c1-0", inside)
    assert still.report is not None
    assert [each.layer for each in still.report.found] == [0, 1]
    assert "process sandbox" in still.about
    with pytest.raises(UsageError, match="keep no weights"):
        subject.of_trial(lab.ledger, "c1-1", inside)


def _records(rewards: Sequence[float]) -> list[Record]:
    return [
        Record(
            decision=Decision(id=f"c1-{n}", campaign="c1", choices=(), edits=(), policy="p",
                              version="1", catalogue="1", proposer="", seed="", time=n),
            outcome=Outcome.VALID,
            reward=reward,
        )
        for n, reward in enumerate(rewards)
    ]  # fmt: skip


scores = st.floats(-5, 5).map(lambda x: round(x, 6))
bonuses = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(scores, bonuses), min_size=2, max_size=30))
def test_no_forged_spectrum_changes_what_a_rank_teaches(pairs: list[tuple[float, float]]) -> None:
    records = _records([score for score, _ in pairs])
    forged = {r.decision.id: bonus for r, (_, bonus) in zip(records, pairs, strict=True)}
    changed = spectra.shaped(records, forged)
    taught = learning_rewards(changed)
    for i, first in enumerate(records):
        for j, second in enumerate(records):
            assert first.reward is not None
            assert second.reward is not None
            if first.reward > second.reward:
                mine, theirs = changed[i].reward, changed[j].reward
                assert mine is not None
                assert theirs is not None
                assert mine > theirs
    if len({r.reward for r in records}) == len(records):
        assert np.array_equal(taught, learning_rewards(records))


def test_the_shipped_policy_does_not_hear_features_that_it_never_learned() -> None:
    policy = stored.warm()
    assert policy.weights is not None
    scorer = NetworkScorer(policy.weights)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, OPTION_WIDTH))
    changed = features.copy()
    changed[:, [PARENT.index(name) for name in stored.UNSEEN]] += 2.0
    context, prior, mask = rng.normal(size=len(CONTEXT)), np.full(5, 0.2), np.ones(5, np.bool_)
    plain = scorer.score(Head.PARENT, features, context, prior, mask)
    other = scorer.score(Head.PARENT, changed, context, prior, mask)
    assert np.array_equal(plain.probabilities, other.probabilities)
    assert plain.value is not None
    assert np.array_equal(plain.value, np.asarray(other.value))
