"""A budget of trials is kept to the trial, whatever is under way at once and in whatever order."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.agents.lab import Lab
from nightlab.agents.plan import Plan
from nightlab.agents.promises import PAIRS, SCREENS, Promises
from nightlab.vocabulary import Budget, Direction, Objective, Rung

RUNG = Rung("small", 5.0)
NOISE = 5


@dataclass
class Counting:
    """A ledger that knows how many trials have ended."""

    trials: int = NOISE

    def spent(self, campaign: str) -> Any:
        return SimpleNamespace(trials=self.trials, wall_seconds=0.0)

    def paces(self, campaign: str, count: int) -> list[Any]:
        return []

    def scoring_seconds(self, campaign: str, split: object, count: int) -> list[float]:
        return []


def lab_of(trials: int, workers: int, ledger: Counting) -> Lab:
    objective = Objective(metric="val_bpb", direction=Direction.LOWER, budget=Budget(trials=trials))
    campaign = SimpleNamespace(id="c1", objective=objective, settings={})
    bench = SimpleNamespace(task=SimpleNamespace(metric="val_bpb"))
    plan = Plan(screen=RUNG, confirm=RUNG, noise_trials=NOISE, workers=workers)
    anything: Any = None
    return Lab(
        ledger=ledger,  # type: ignore[arg-type]
        lease=anything,
        campaign=campaign,  # type: ignore[arg-type]
        bench=bench,  # type: ignore[arg-type]
        plan=plan,
    )


@given(st.data(), st.integers(18, 60), st.integers(1, 4))
def test_no_order_of_events_takes_more_trials_than_the_budget(
    data: st.DataObject, trials: int, workers: int
) -> None:
    ledger = Counting()
    lab = lab_of(trials, workers, ledger)
    screens: dict[str, int] = {}
    pairs: dict[str, int] = {}
    begun = 0
    for _ in range(400):
        under_way = sorted({*screens, *pairs})
        if len(under_way) < workers and lab.may_begin():
            begun += 1
            screens[f"c1-{begun}"] = 0
            lab.promises.screening(f"c1-{begun}")
            continue
        if not under_way:
            break
        name = data.draw(st.sampled_from(under_way))
        if name in pairs:
            ledger.trials += 2
            pairs[name] += 1
            lab.promises.confirming(name, pairs[name])
            undecided = data.draw(st.booleans())
            if undecided and (pairs[name] < PAIRS or lab.may_go_on(name, pairs[name])):
                continue
            del pairs[name]
            lab.promises.end(name)
            continue
        ledger.trials += 1
        screens[name] += 1
        lab.promises.screening(name, screens[name])
        if data.draw(st.booleans()) and screens[name] < SCREENS:
            continue
        del screens[name]
        if data.draw(st.booleans()) and lab.may_confirm(name):
            pairs[name] = 0
            lab.promises.confirming(name, 0)
        else:
            lab.promises.end(name)
    assert not screens
    assert not pairs
    assert ledger.trials + NOISE <= trials
    assert ledger.trials + NOISE > trials - SCREENS - 2 * PAIRS


def test_the_smallest_campaign_can_confirm_its_one_experiment() -> None:
    ledger = Counting()
    lab = lab_of(NOISE + SCREENS + 2 * PAIRS + NOISE, 1, ledger)
    assert lab.may_begin()
    lab.promises.screening("c1-1")
    assert not lab.may_begin()
    ledger.trials += SCREENS
    assert lab.may_confirm("c1-1")


@pytest.mark.parametrize(("pairs", "promised"), [(0, 6), (2, 2), (3, 2), (7, 2)])
def test_a_confirmation_is_promised_what_it_still_needs(pairs: int, promised: int) -> None:
    promises = Promises()
    promises.confirming("c1-1", pairs)
    assert promises.others() == promised
    assert promises.others("c1-1") == 0
    promises.end("c1-1")
    assert promises.others() == 0
