"""A constraint is judged on the same seeds, so that what a seed is worth decides nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from nightlab.agents import judge
from nightlab.memory.records import Arm, Repeat, Trial, TrialStatus
from nightlab.vocabulary import (
    Constraint,
    Direction,
    Ending,
    Measurement,
    Objective,
    Purpose,
    Run,
    Tier,
)

OBJECTIVE = Objective(
    metric="kv_bytes_per_token",
    direction=Direction.LOWER,
    constraints=(Constraint("accuracy", ">=", 0.99, relative=True),),
)
LEVELS = {1: 0.30, 2: 0.44, 3: 0.36, 4: 0.41}
"""What the baseline's accuracy is on each seed."""


def trial(experiment: str, seed: int, accuracy: float, purpose: Purpose, arm: Arm) -> Trial:
    return Trial(
        id=f"{experiment}/{seed}",
        campaign="c1",
        experiment=experiment,
        program="base" if experiment == "c1-0" or arm is Arm.INCUMBENT else "mine",
        rung="small",
        seed=seed,
        purpose=purpose,
        arm=arm,
        status=TrialStatus.FINISHED,
        attempt=1,
        token=1,
        started=datetime(2026, 1, 1, tzinfo=UTC),
        run=Run(ending=Ending.FINISHED, tier=Tier.BWRAP),
        measurement=Measurement(metrics={"accuracy": accuracy}),
    )


@dataclass(frozen=True)
class Stored:
    """A campaign that is over, with the trials that were read of it."""

    rows: Sequence[Trial]
    objective: Objective = OBJECTIVE
    baseline: str = "c1-0"

    @property
    def ledger(self) -> "Stored":
        return self

    def trials(self, *, campaign: str | None = None, experiment: str | None = None) -> list[Trial]:
        return [t for t in self.rows if experiment in (None, t.experiment)]

    def noise_values(self, campaign: str) -> list[Repeat]:
        return []


def broken(mine: Sequence[Trial], others: Sequence[Trial] = ()) -> list[str]:
    noise = [
        trial("c1-0", seed, level, Purpose.NOISE, Arm.CANDIDATE) for seed, level in LEVELS.items()
    ]
    stored = Stored([*noise, *mine, *others])
    return judge.broken_constraints(cast(judge.Measured, stored), mine)


def screened(seed: int, change: float) -> Trial:
    return trial("c1-1", seed, LEVELS[seed] + change, Purpose.SCREEN, Arm.CANDIDATE)


def test_an_edit_that_changes_nothing_keeps_its_bound_on_the_unluckiest_seed() -> None:
    assert broken([screened(1, 0.0)]) == []


def test_an_edit_that_costs_five_percent_breaks_it_on_the_luckiest_seed() -> None:
    (reason,) = broken([screened(2, -0.05 * LEVELS[2])])
    assert "accuracy >= 0.99 x baseline" in reason


def test_in_a_confirmation_the_baselines_re_runs_stand_beside_it() -> None:
    mine = [trial("c1-1", 70, 0.20, Purpose.CONFIRM, Arm.CANDIDATE)]
    rerun = [trial("c1-1", 70, 0.20, Purpose.CONFIRM, Arm.INCUMBENT)]
    assert broken(mine, rerun) == []
    assert broken(mine) != []


def test_without_a_common_seed_the_means_are_compared() -> None:
    assert broken([trial("c1-1", 9, 0.50, Purpose.CONFIRM, Arm.CANDIDATE)]) == []
    assert broken([trial("c1-1", 9, 0.30, Purpose.CONFIRM, Arm.CANDIDATE)]) != []
