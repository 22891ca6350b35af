"""The abuse suite: every hostile program comes to its end, on every tier, and leaves nothing."""

import pytest

from nightlab.sandbox import crowd, selftest
from nightlab.sandbox.abuse import CASES
from nightlab.sandbox_commands import judge
from nightlab.vocabulary import Tier


@pytest.fixture(scope="session")
def rows(tier: Tier) -> dict[str, selftest.Row]:
    """One run of the whole suite for each tier, as a person would run it."""
    return {row.name: row for row in selftest.run(tier, judge).rows}


@pytest.mark.parametrize("name", [*(case.name for case in CASES), selftest.NOTHING_LEFT])
def test_ends_as_it_must(rows: dict[str, selftest.Row], name: str) -> None:
    row = rows[name]
    assert row.holds, f"expected {row.expected}, saw {row.seen}: {row.detail}"


@pytest.mark.slow
def test_a_crowd_of_hostile_programs_does_not_change_an_honest_score(tier: Tier) -> None:
    table = crowd.run(tier, judge, hostile=6, honest=2)
    assert len(table.rows) == 9
    assert [row for row in table.rows if not row.holds] == []


@pytest.mark.slow
@pytest.mark.bwrap
def test_forty_hostile_and_ten_honest_programs_side_by_side(bwrap_tier: Tier) -> None:
    table = crowd.run(bwrap_tier, judge, hostile=40, honest=10)
    assert [row for row in table.rows if not row.holds] == []
