"""The archive's counts against a naive recount, whatever happens in whatever order."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nightlab.agents.policy.interface import Archive, Attempt, Menu, Outcome, Part
from nightlab.agents.policy.puct import blocked, puct

MENU = Menu(parts=(Part("a", ("0", "1", "2")), Part("b", ("0", "1"))))


def attempt(
    name: str, parent: str | None, outcome: Outcome, reward: float = 0.0, a: str = "0"
) -> Attempt:
    return Attempt(
        id=name,
        program=name,
        parent=parent,
        genes={"a": a, "b": "0"},
        outcome=outcome,
        reward=reward if outcome is Outcome.VALID else None,
    )


class Growing(RuleBasedStateMachine):
    """Attempts arrive, some in flight; the in-flight ones end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.archive = Archive(MENU)
        self.archive.record(attempt("0", None, Outcome.VALID, 0.5))

    @rule(
        parent=st.integers(0, 10_000),
        outcome=st.sampled_from(list(Outcome)),
        reward=st.floats(-3, 3),
    )
    def arrive(self, parent: int, outcome: Outcome, reward: float) -> None:
        above = self.archive.attempts[parent % len(self.archive)].id
        self.archive.record(attempt(str(len(self.archive)), above, outcome, reward))

    @rule(which=st.integers(0, 10_000), reward=st.floats(-3, 3), lost=st.booleans())
    def end(self, which: int, reward: float, lost: bool) -> None:
        pending = [a for a in self.archive.attempts if a.outcome is Outcome.PENDING]
        if pending:
            one = pending[which % len(pending)]
            outcome = Outcome.LOST if lost else Outcome.VALID
            self.archive.record(replace(one, outcome=outcome, reward=None if lost else reward))

    @invariant()
    def counts_are_those_of_a_recount(self) -> None:
        made = self.archive
        counted = [a for a in made.attempts if a.outcome is not Outcome.LOST and a.parent]
        assert made.expansions == len(counted)
        for row, mine in enumerate(made.attempts):
            children = [a for a in counted if a.parent == mine.id]
            assert made.children[row] == len(children)
            assert made.in_flight[row] == sum(a.outcome is Outcome.PENDING for a in children)
            scores = [a.reward for a in children if a.reward is not None]
            assert made.best_child[row] == max(scores, default=-math.inf)
            below = made.lineage_of(row)
            descendants = {r for r in below if r > row}
            expansions = [
                a for a in counted if a.parent and made.row[a.parent] in descendants | {row}
            ]
            assert made.visits[row] == len(expansions)


TestGrowing = Growing.TestCase
TestGrowing.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_an_outcome_is_set_once() -> None:
    made = Archive(MENU, [attempt("0", None, Outcome.VALID, 1.0)])
    made.record(attempt("0", None, Outcome.VALID, 1.0))
    with pytest.raises(ValueError, match="already ended"):
        made.record(attempt("0", None, Outcome.FAILED))


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.VALID])
def test_only_a_valid_attempt_has_a_reward(outcome: Outcome) -> None:
    with pytest.raises(ValueError, match="exactly valid"):
        Attempt(id="1", program="p", outcome=outcome, reward=1.0)


def test_puct_is_the_formula_by_hand() -> None:
    made = Archive(
        MENU,
        [
            attempt("r", None, Outcome.VALID, 0.0),
            attempt("x", "r", Outcome.VALID, 2.0),
            attempt("y", "r", Outcome.VALID, 1.0),
            attempt("z", "x", Outcome.VALID, 4.0),
        ],
    )
    scores = puct(made, [0, 1, 2, 3])
    # ranks 1..4 by reward: r 1, y 2, x 3, z 4 of 10; T = 3; visits r 3, x 1, y 0, z 0; range 4
    root = math.sqrt(1 + 3)
    quality = np.array([2.0, 4.0, 1.0, 4.0]) / 4.0 - 1.0
    bonus = np.array([0.1 / 4, 0.3 / 2, 0.2 / 1, 0.4 / 1]) * root
    assert np.allclose(scores, quality + bonus)


def test_puct_does_not_change_under_an_affine_change_of_the_reward() -> None:
    rewards = np.random.default_rng(0).standard_normal(12)

    def scores(scale: float, shift: float) -> np.ndarray:
        made = Archive(MENU)
        for i, reward in enumerate(rewards):
            parent = str(i // 2) if i else None
            made.record(attempt(str(i), parent, Outcome.VALID, scale * reward + shift))
        return puct(made, list(range(12)))

    assert np.allclose(scores(1.0, 0.0), scores(37.0, -5.0))


def test_work_in_flight_blocks_its_whole_family() -> None:
    made = Archive(
        MENU,
        [
            attempt("r", None, Outcome.VALID, 0.0),
            attempt("s", None, Outcome.VALID, 0.1),
            attempt("x", "r", Outcome.VALID, 1.0),
            attempt("y", "x", Outcome.VALID, 2.0),
            attempt("p", "x", Outcome.PENDING),
        ],
    )
    assert {made.attempts[row].id for row in blocked(made)} == {"r", "x", "y", "p"}
