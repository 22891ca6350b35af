"""Gains bought with compute, or known by heart from the search split, are no gains."""

from typing import TYPE_CHECKING

import pytest

from nightlab.agents.fair import disagreement, overspent_confirmation, overspent_screening
from nightlab.agents.judge import Pair, Paired
from nightlab.memory.records import Estimate, Trial
from nightlab.vocabulary import Ending, Run, Rung, Tier

if TYPE_CHECKING:
    from tests.agents.ended import trial
else:
    from ended import trial

SMALL = Rung("small", 5.0)


def used(cpu_seconds: float) -> Trial:
    return trial(Run(ending=Ending.FINISHED, tier=Tier.PROCESS, cpu_seconds=cpu_seconds))


def pairs(*cpu_seconds: tuple[float, float]) -> list[Pair]:
    return [Pair(used(mine), used(theirs)) for mine, theirs in cpu_seconds]


def test_a_trial_that_trains_on_past_its_budget_is_no_comparison() -> None:
    said = overspent_screening(used(7.9), used(5.07), SMALL)
    assert said is not None
    assert "7.90 CPU seconds" in said
    assert "5.07" in said


def test_a_slow_step_at_the_end_is_forgiven_in_a_screen() -> None:
    assert overspent_screening(used(5.55), used(5.07), SMALL) is None


def test_pairs_are_compared_by_their_means_and_more_strictly() -> None:
    assert overspent_confirmation(pairs((5.25, 5.07), (5.05, 5.06), (5.07, 5.06)), SMALL) is None
    assert overspent_confirmation(pairs((5.4, 5.07), (5.4, 5.06), (5.4, 5.06)), SMALL)


def test_less_compute_than_the_incumbent_is_always_fair() -> None:
    assert overspent_screening(used(1.0), used(5.0), SMALL) is None
    assert overspent_confirmation(pairs((4.0, 5.0)), SMALL) is None


@pytest.mark.parametrize(
    ("seen", "refused"),
    [
        (Paired(0.10, 0.05, 0.15, 3.0), False),
        (Paired(0.04, -0.02, 0.10, 3.0), False),
        (Paired(-0.001, -0.1, 0.1, 3.0), True),
        (Paired(0.01, 0.0, 0.02, 3.0), True),
    ],
)
def test_the_hold_out_must_bear_out_the_gain(seen: Paired, refused: bool) -> None:
    promised = Estimate(gain=0.11, gain_low=0.08, gain_high=0.14, pairs=3)
    assert (disagreement(promised, seen) is not None) is refused
