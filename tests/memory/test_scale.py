"""Ten thousand experiments: the first screen asks few questions and walks no table twice."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from nightlab.memory.example import Clock, Example
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Order
from nightlab.memory.report.summary import summarise
from nightlab.memory.tables import ExperimentRow, MeasurementRow, RunRow, TrialRow

EXPERIMENTS, TRIALS_EACH = 10_000, 2


def experiments(program: str) -> list[dict[str, object]]:
    """Rows of discarded experiments, all children of the baseline."""
    return [
        {
            "id": f"c1-{number}",
            "campaign_id": "c1",
            "number": number,
            "parent_id": "c1-0",
            "program_id": program,
            "author": "catalogue",
            "operator": f"operator {number % 45}",
            "part": f"part {number % 10}",
            "hypothesis": "it may help",
            "edits": ["a=b"],
            "verdict": "discarded",
            "reason": "no better",
            "gain": (number * 7919 % 1000) / 1e4 - 0.05,
            "created": Clock().at,
        }
        for number in range(100, 100 + EXPERIMENTS)
    ]


def trials(program: str, experiment: object) -> list[dict[str, object]]:
    """Rows of an experiment's screening trials."""
    key = {"campaign_id": "c1", "experiment_id": experiment, "program_id": program}
    kind = {"rung": "small", "purpose": "screen", "arm": "candidate", "status": "finished"}
    rest = {"attempt": 1, "token": 1, "started": Clock().at, "finished": Clock().at}
    return [
        {"id": f"{experiment}/small/{seed}", "seed": seed, "total_seconds": 6.0} | key | kind | rest
        for seed in range(TRIALS_EACH)
    ]


def run(trial: object) -> dict[str, object]:
    """A trial's row of what the sandbox returned."""
    times = {"wall_seconds": 5.0, "cpu_seconds": 5.0, "startup_seconds": 0.0}
    words = {"ending": "finished", "tier": "bwrap", "log": "x" * 500, "reason": "", "image": ""}
    rest = {"attempt": 1, "peak_memory_bytes": 1, "artifacts": {}}
    return {"trial_id": trial} | times | words | rest


def measurement(trial: object) -> dict[str, object]:
    """A trial's row of scores."""
    words = {"split": "search", "integrity": "clean", "reasons": [], "created": Clock().at}
    metrics = {"val_bpb": 4.0, "params": 2e5}
    return {"trial_id": trial, "metrics": metrics, "scoring_seconds": 0.3} | words


def fill(ledger: Ledger) -> None:
    """Add 10,000 experiments to campaign c1 in one transaction."""
    program = str(ledger.experiment("c1-0").program)
    tried = experiments(program)
    ran = [trial for row in tried for trial in trials(program, row["id"])]
    with ledger.database.writing("filling") as session:
        session.execute(sa.insert(ExperimentRow), tried)
        session.execute(sa.insert(TrialRow), ran)
        session.execute(sa.insert(RunRow), [run(row["id"]) for row in ran])
        session.execute(sa.insert(MeasurementRow), [measurement(row["id"]) for row in ran])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A campaign with 10,000 experiments and 20,000 trials."""
    folder: Path = tmp_path_factory.mktemp("large")
    clock = Clock()
    with Ledger.open(f"sqlite:///{folder / 'ledger.db'}", folder, clock=clock) as ledger:
        Example(ledger, clock).play(experiments=1)
        fill(ledger)
        yield ledger


@contextmanager
def statements(ledger: Ledger) -> Iterator[list[tuple[str, object]]]:
    """Every statement that the block sends to the database."""
    sent: list[tuple[str, object]] = []

    def note(_c: object, _k: object, text: str, values: object, *_rest: object) -> None:
        if not text.startswith("BEGIN"):
            sent.append((text, values))

    sa.event.listen(ledger.database.reader, "before_cursor_execute", note)
    yield sent
    sa.event.remove(ledger.database.reader, "before_cursor_execute", note)


def plan(ledger: Ledger, statement: str, values: object) -> list[str]:
    """How SQLite means to run a statement."""
    with ledger.database.reader.connect() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        assert isinstance(values, tuple)
        return [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


@pytest.mark.parametrize("order", list(Order))
def test_a_page_takes_five_queries_none_of_which_walks_a_whole_table(
    large: Ledger, order: Order
) -> None:
    with statements(large) as sent:
        page = large.page("c1", order=order, limit=25, offset=50)
    assert len(page.experiments) == 25
    assert page.matching == EXPERIMENTS + 2
    assert len(sent) == 5
    steps = [step for text, values in sent for step in plan(large, text, values)]
    assert [step for step in steps if step.startswith("SCAN")] == []


def test_the_first_screen_takes_a_fixed_number_of_queries(large: Ledger) -> None:
    with statements(large) as sent:
        summary = summarise(large, "c1")
    assert sum(summary.counts.values()) == EXPERIMENTS + 1
    assert len(sent) <= 40


def test_the_archive_takes_four_queries(large: Ledger) -> None:
    with statements(large) as sent:
        archive = large.archive("c1")
    assert len(archive) == EXPERIMENTS + 2
    assert archive[0].visits == EXPERIMENTS + 1
    assert len(sent) == 4
