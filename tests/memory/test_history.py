"""Questions over many rows give what the rows say."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest

from nightlab.memory.example import Clock, Example
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Arm, Order, TrialStatus
from nightlab.vocabulary import Ending, Integrity, Measurement, Purpose, Run, Tier, Verdict


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ledger]:
    """A ledger with one short campaign, c1. The tests may add to it and change nothing."""
    folder, clock = tmp_path_factory.mktemp("played"), Clock()
    url = f"sqlite:///{folder / 'ledger.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_schema")
    with Ledger.open(url, folder, clock=clock) as ledger:
        Example(ledger, clock).play(experiments=14)
        yield ledger


def test_the_archive_agrees_with_the_trials_and_the_children(played: Ledger) -> None:
    experiments = played.experiments("c1")
    children = Counter(experiment.parent for experiment in experiments)
    archive = played.archive("c1")
    assert [entry.experiment for entry in archive] == experiments
    for entry in archive:
        values: dict[str, list[float]] = {}
        for trial in played.trials(experiment=entry.experiment.id):
            value = trial.value("val_bpb")
            if trial.arm is Arm.CANDIDATE and value is not None:
                values.setdefault(trial.rung, []).append(value)
        assert entry.visits == children[entry.experiment.id]
        assert entry.trials == {rung: len(some) for rung, some in values.items()}
        assert entry.scores == pytest.approx({rung: fmean(some) for rung, some in values.items()})


def test_a_tampered_trial_scores_nothing(played: Ledger) -> None:
    lease = played.acquire_lease("c1", "test:1", seconds=60)
    experiment = next(e for e in played.experiments("c1") if e.verdict is Verdict.FAILED)
    assert experiment.program is not None
    trial = played.begin_trial(
        lease, experiment.id, experiment.program, rung="medium", seed=5, purpose=Purpose.NOISE
    )
    cheat = Measurement(metrics={"val_bpb": 0.1}, integrity=Integrity.TAMPERED, reasons=("x",))
    run = Run(ending=Ending.FINISHED, tier=Tier.BWRAP)
    done = played.finish_trial(trial, run, cheat, total_seconds=1.0)
    assert done.value("val_bpb") is None
    entry = next(e for e in played.archive("c1") if e.experiment.id == experiment.id)
    assert entry.scores == {}
    assert trial.id not in {repeat.trial for repeat in played.repeats("c1")}
    assert next(dot for dot in played.dots("c1") if dot.trial == trial.id).value is None


def test_pages_are_the_sorted_and_filtered_experiments_in_slices(played: Ledger) -> None:
    kept = [e for e in played.experiments("c1") if e.verdict is Verdict.CONFIRMED]
    ranked = sorted(kept, key=lambda e: (e.estimate.gain_low is None, -(e.estimate.gain_low or 0)))
    pages = [
        played.page("c1", verdicts=[Verdict.CONFIRMED], order=Order.GAIN, limit=2, offset=offset)
        for offset in range(0, len(kept) + 2, 2)
    ]
    assert [entry.experiment for page in pages for entry in page.experiments] == ranked
    assert {page.matching for page in pages} == {len(kept)}


def test_a_page_finds_text_as_it_is_written_whatever_its_case(played: Ledger) -> None:
    wanted = [e.id for e in played.experiments("c1") if "rotary" in e.hypothesis]
    found = played.page("c1", text="ROTARY", descending=False)
    assert [entry.experiment.id for entry in found.experiments] == wanted
    assert played.page("c1", text="%").matching == 0


def test_counts_leave_the_baseline_out(played: Ledger) -> None:
    verdicts = Counter(e.verdict for e in played.experiments("c1") if e.number > 0)
    assert played.counts("c1") == {verdict: verdicts[verdict] for verdict in Verdict}


def test_the_curve_has_a_dot_for_every_finished_trial_in_order(played: Ledger) -> None:
    dots = played.dots("c1")
    trials = {trial.id: trial for trial in played.trials(campaign="c1")}
    assert {dot.trial for dot in dots} == set(trials)
    assert [dot.minutes for dot in dots] == sorted(dot.minutes for dot in dots)
    assert all(dot.value == trials[dot.trial].value("val_bpb") for dot in dots)


def test_overheads_are_those_of_the_trials(played: Ledger) -> None:
    trials = played.trials(campaign="c1")
    assert all(trial.status is TrialStatus.FINISHED for trial in trials)
    assert sorted(played.overheads("c1")) == pytest.approx(
        sorted(t.overhead_seconds for t in trials if t.overhead_seconds is not None)
    )


def test_rungs_are_ordered_by_what_they_cost(played: Ledger) -> None:
    assert played.rungs("c1") == ["small", "medium"]


def test_a_lineage_leads_from_the_baseline_to_the_experiment(played: Ledger) -> None:
    incumbent = played.campaign("c1").incumbent
    assert incumbent is not None
    line = played.lineage(incumbent)
    assert line[0].number == 0
    assert line[-1].id == incumbent
    assert [one.parent for one in line[1:]] == [one.id for one in line[:-1]]


def test_a_duplicate_is_found_by_its_syntax_tree(played: Ledger) -> None:
    experiment = played.experiments("c1")[2]
    assert experiment.program is not None
    tree = played.program(experiment.program).tree_hash
    assert played.seen("c1", tree) == experiment.id
    assert played.seen("c1", "no such tree") is None


def test_episodes_cross_campaigns_and_carry_their_decisions(played: Ledger, clock: Clock) -> None:
    Example(played, clock, seed=2).play(experiments=3)
    episodes = list(played.episodes(task="example"))
    assert [e.experiment.campaign for e in episodes] == ["c1"] * 14 + ["c2"] * 3
    assert all([d.head for d in episode.decisions] == ["parent", "part"] for episode in episodes)
    assert list(played.episodes(task="another")) == []


def test_a_trial_costs_less_than_fifty_kilobytes(
    sqlite_ledger: Ledger, clock: Clock, tmp_path: Path
) -> None:
    Example(sqlite_ledger, clock).play(experiments=12)
    trials = len(sqlite_ledger.trials(campaign="c1"))
    sqlite_ledger.close()
    assert (tmp_path / "ledger.db").stat().st_size / trials < 50_000
