"""Early aborts and their audits, read back from every engine."""

import json

import pytest

from nightlab.errors import LedgerError
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import CHECKUP, Campaign, Lease
from nightlab.memory.report import intervals
from nightlab.memory.report.aborts import aborts, described, document
from nightlab.vocabulary import (
    Direction,
    Ending,
    Measurement,
    Objective,
    Program,
    Purpose,
    Run,
    Tier,
)

PROGRAM = Program({"model.py": "width = 64\n"})


@pytest.fixture
def begun(ledger: Ledger) -> tuple[Campaign, Lease]:
    """A campaign whose baseline scored 3.0."""
    campaign = ledger.create_campaign(
        "lower val_bpb",
        Objective(metric="val_bpb", direction=Direction.LOWER),
        task="example",
        tier=Tier.BWRAP,
        proposer="catalogue",
        seed=1,
        workers=1,
    )
    ledger.put_program(PROGRAM, tree_hash="t", origin="baseline")
    lease = ledger.acquire_lease(campaign.id, "test:1", seconds=1e6)
    add(ledger, lease, 3.0, purpose=Purpose.NOISE)
    return campaign, lease


def add(
    ledger: Ledger,
    lease: Lease,
    value: float | None,
    *,
    evidence: bytes | None = None,
    purpose: Purpose = Purpose.SCREEN,
) -> str:
    """A trial that scored ``value``, or was aborted where that is None."""
    experiment = ledger.begin_experiment(lease).id
    trial = ledger.begin_trial(lease, experiment, PROGRAM.id, rung="small", seed=1, purpose=purpose)
    ending = Ending.ABORTED if value is None else Ending.FINISHED
    measured = None if value is None else Measurement(metrics={"val_bpb": value})
    files = {CHECKUP: ledger.artifacts.put_bytes(evidence)} if evidence else {}
    run = Run(ending=ending, tier=Tier.BWRAP)
    return ledger.finish_trial(trial, run, measured, total_seconds=1.0, artifacts=files).id


def test_aborts_and_audits_are_told_apart_and_audits_judged_by_the_trusted_score(
    ledger: Ledger, begun: tuple[Campaign, Lease]
) -> None:
    campaign, lease = begun
    seen = json.dumps({"reference": "c1-0/small/1/noise"}).encode()
    stopped = [add(ledger, lease, None, evidence=seen) for _ in range(3)]
    wrong = add(ledger, lease, 2.9, evidence=seen)
    right = [add(ledger, lease, value, evidence=seen) for value in (3.1, 3.0)]
    add(ledger, lease, 2.5)
    found = aborts(ledger, campaign)
    assert found.aborted == tuple(sorted(stopped))
    assert found.audited == tuple(sorted([wrong, *right]))
    assert found.wrong == (wrong,)
    assert found.rate is not None
    assert found.rate.value == pytest.approx(1 / 3)
    assert document(found)["false_abort_rate"] == found.rate.value
    assert described(found) == (
        "3 ended early on their curve, 3 more finished to audit that: "
        "1 of these would have been wrong (33 % [1, 91])"
    )


def test_a_campaign_without_aborts_says_nothing_of_them(
    ledger: Ledger, begun: tuple[Campaign, Lease]
) -> None:
    campaign, lease = begun
    add(ledger, lease, 2.9)
    found = aborts(ledger, campaign)
    assert (found.rate, described(found)) == (None, "")


def test_evidence_that_cannot_be_read_is_an_error_that_names_the_trial(
    ledger: Ledger, begun: tuple[Campaign, Lease]
) -> None:
    campaign, lease = begun
    trial = add(ledger, lease, 2.9, evidence=b"not json")
    with pytest.raises(LedgerError, match=trial):
        aborts(ledger, campaign)


def test_a_share_has_its_exact_interval() -> None:
    quarter = intervals.share(1, ["a", "b", "c", "d"])
    assert quarter is not None
    assert quarter.low == pytest.approx(0.00631, abs=1e-4)
    assert quarter.high == pytest.approx(0.8059, abs=1e-4)
    assert intervals.share(0, []) is None
    none = intervals.share(0, ["a"] * 20)
    assert none is not None
    assert none.low == 0.0
    assert none.high == pytest.approx(0.1684, abs=1e-4)
