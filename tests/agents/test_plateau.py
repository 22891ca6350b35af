"""A plateau is told from the ledger's verdicts alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from nightlab.agents.plateau import PATIENCE, plateau
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Experiment
from nightlab.vocabulary import Direction, Objective, Verdict


@pytest.fixture
def row(tmp_path: Path) -> Experiment:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "artifacts") as ledger:
        ledger.create_campaign(
            "lower val_bpb",
            Objective(metric="val_bpb", direction=Direction.LOWER),
            task="byte_lm",
            tier="process",
            proposer="llm",
            seed=1,
            workers=1,
            settings={},
        )
        return ledger.begin_experiment(ledger.acquire_lease("c1", "test:1", seconds=60))


def campaign(row: Experiment, *verdicts: Verdict, part: str = "norm") -> list[Experiment]:
    """The baseline, then an experiment for each verdict."""
    every = (Verdict.CONFIRMED, *verdicts)
    return [
        replace(row, id=f"c1-{n}", number=n, verdict=verdict, part=part if n else "")
        for n, verdict in enumerate(every)
    ]


PARTS = ("norm", "head")


def test_a_run_without_a_gain_is_a_plateau_and_names_what_was_tried_and_what_was_not(
    row: Experiment,
) -> None:
    found = plateau(campaign(row, *[Verdict.DISCARDED] * PATIENCE), PARTS)
    assert found is not None
    assert (found.since, found.length) == ("c1-0", PATIENCE)
    assert found.tried == ("norm",)
    assert found.untouched == ("head",)
    assert "since c1-0; tried: norm; not touched: head" in str(found)


def test_a_gain_ends_a_plateau_and_what_was_not_measured_makes_none(row: Experiment) -> None:
    idle = [Verdict.DISCARDED] * PATIENCE
    assert plateau(campaign(row, *idle, Verdict.CONFIRMED), PARTS) is None
    assert plateau(campaign(row, *[Verdict.INVALID] * 50), PARTS) is None
    assert plateau(campaign(row, *idle[1:]), PARTS) is None
    again = plateau(campaign(row, Verdict.CONFIRMED, *idle), PARTS)
    assert again is not None
    assert again.since == "c1-1"


def test_before_the_baseline_is_measured_there_is_none(row: Experiment) -> None:
    assert plateau([replace(row, verdict=None)], PARTS) is None
