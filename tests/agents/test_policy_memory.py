"""What earlier campaigns measured is evidence for the next one: about edits, on the same task."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.agents import past
from nightlab.agents.policy.interface import (
    Archive,
    Attempt,
    Context,
    Decision,
    Memory,
    Outcome,
    Seen,
)
from nightlab.agents.policy.memory import MOST_WEIGHT
from nightlab.agents.policy.stored import bandit
from nightlab.memory.example import Clock
from nightlab.memory.ledger import Ledger

if TYPE_CHECKING:
    from tests.agents.played import MENU, WORTH, Player
else:
    from played import MENU, WORTH, Player

EDITS = [(part.name, variant) for part in MENU.parts for variant in part.variants[1:]]


def planted(seed: int, count: int) -> tuple[dict[tuple[str, str], float], list[Seen]]:
    """Gains per edit, and experiments of one to three edits whose gains add up, with noise."""
    rng = np.random.default_rng(seed)
    worth = {edit: float(rng.normal(0.0, 0.2)) for edit in EDITS}
    seen = []
    for _ in range(count):
        rows = rng.choice(len(EDITS), int(rng.integers(1, 4)), replace=False)
        edits = tuple(EDITS[row] for row in rows)
        gain = sum(worth[edit] for edit in edits) + 0.05 * float(rng.standard_normal())
        seen.append(Seen(edits, min(max(gain, -1.0), 1.0)))
    return worth, seen


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_what_each_edit_is_worth_alone_is_told_from_bold_experiments(seed: int) -> None:
    worth, seen = planted(seed, 150)
    memory = Memory(seen)
    for part in MENU.parts:
        gains, weights = memory.variants(part.name, part.variants)
        for variant, gain, weight in zip(part.variants[1:], gains[1:], weights[1:], strict=True):
            assert gain == pytest.approx(worth[part.name, variant], abs=0.12)
            assert weight == MOST_WEIGHT
        assert weights[0] == 0.0
        assert memory.part(part.name, part.variants)[0] == max(gains[1:])


def test_an_empty_memory_says_nothing() -> None:
    assert Memory().part("norm", ["a", "b"]) == (0.0, 0.0)
    assert [table.tolist() for table in Memory().variants("norm", ["a"])] == [[0], [0]]


def test_a_part_is_worth_its_best_edit_however_bad_the_others_were() -> None:
    seen = [Seen((("rate", "3"),), 0.8), Seen((("rate", "5"),), -1.0), Seen((("rate", "4"),), -1.0)]
    memory = Memory(seen)
    assert memory.part("rate", ["3", "4", "5"])[0] > 0.3
    assert memory.part("rate", ["4", "5"])[0] < 0


def test_older_experiments_weigh_less() -> None:
    new, old = Seen((("norm", "b"),), 0.5), Seen((("norm", "b"),), -0.5, weight=0.25)
    gains, weights = Memory([new, old]).variants("norm", ["b"])
    assert gains[0] > 0
    assert weights[0] == pytest.approx(1.25)


def first_decisions(
    memory: Memory, count: int = 200, start: Mapping[str, str] | None = None
) -> list[Decision]:
    archive = Archive(MENU, memory=memory)
    start = start or {part.name: part.variants[0] for part in MENU.parts}
    archive.record(Attempt(id="c9-0", program="p", genes=start, outcome=Outcome.VALID, reward=0.0))
    context = Context(campaign="c9", id="c9-1", archive=archive, budget_left=1.0)
    return [bandit().choose(context, np.random.default_rng(seed)) for seed in range(count)]


def share(decisions: list[Decision], edit: tuple[str, str]) -> float:
    return sum(edit in each.edits for each in decisions) / len(decisions)


def test_the_bandit_begins_with_what_helped_and_keeps_off_what_hurt() -> None:
    good, bad = ("position", "c"), ("rate", "5")
    seen = [Seen((good,), 0.9)] * 3 + [Seen((bad,), -1.0)] * 3
    fresh, knowing = first_decisions(Memory()), first_decisions(Memory(seen))
    assert share(knowing, good) > 2 * share(fresh, good)
    assert share(knowing, bad) < share(fresh, bad)
    for decision in knowing:
        for choice in decision.choices:
            assert min(mu for mu, open_ in zip(choice.mu, choice.mask, strict=True) if open_) > 0


def test_a_part_whose_best_edit_is_made_is_not_sought_for_it() -> None:
    memory = Memory([Seen((("position", "c"),), 0.9)] * 3 + [Seen((("position", "b"),), -0.5)] * 3)
    made = {"norm": "a", "position": "c", "rate": "1"}

    def sought(decisions: list[Decision]) -> float:
        first = [next(part for part, _ in each.edits) for each in decisions]
        return first.count("position") / len(first)

    before, after = sought(first_decisions(memory)), sought(first_decisions(memory, start=made))
    assert before > 0.5
    assert after < 0.4


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Two campaigns on one task, one on another, and one that remembers."""
    home, clock = tmp_path_factory.mktemp("home"), Clock()
    with Ledger.open(f"sqlite:///{home}/ledger.db", home / "artifacts", clock=clock) as opened:
        player = Player(opened, clock)
        player.play(bandit(), 30, seed=1)
        player.play(bandit(), 10, seed=2, task="another")
        player.play(bandit(), 30, seed=3)
        player.play(bandit(), 2, seed=4)
        yield opened


def test_only_ended_campaigns_on_the_same_task_are_remembered_newest_first(ledger: Ledger) -> None:
    assert past.remembered(ledger, ledger.campaign("c1")) == []
    assert past.remembered(ledger, ledger.campaign("c2")) == []
    found = past.remembered(ledger, ledger.campaign("c4"))
    assert len(found) == 60
    weights = [each.weight for each in found]
    assert weights == sorted(weights, reverse=True)
    assert len(set(weights)) == 2
    assert past.remembered(ledger, ledger.campaign("c4")) == found


def test_what_is_remembered_is_what_was_true(ledger: Ledger) -> None:
    memory = Memory(past.remembered(ledger, ledger.campaign("c4")))
    best = max(WORTH["position"], key=lambda variant: WORTH["position"][variant])
    gains, _ = memory.variants("position", [best, "d"])
    assert gains[0] > 0 > gains[1]


def test_a_campaign_may_begin_without_its_memory(ledger: Ledger) -> None:
    known = ledger.campaign("c4")
    forgetful = replace(known, settings={**known.settings, "memory": False})
    assert past.remembered(ledger, forgetful) == []
