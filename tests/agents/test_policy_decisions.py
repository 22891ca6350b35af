"""Decisions: whole, honest about their probabilities, and lossless in JSON."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from nightlab.agents.policy.bandit import PuctThompson
from nightlab.agents.policy.draw import EPSILON, floored
from nightlab.agents.policy.interface import (
    Archive,
    Attempt,
    Choice,
    Context,
    Decision,
    Head,
    Menu,
    Outcome,
    Part,
)
from nightlab.agents.policy.surrogate import Kernel
from nightlab.errors import UsageError

MENU = Menu(
    parts=(
        Part("norm", ("layer", "rms", "none")),
        Part("attention", ("full", "window")),
        Part("width", ("64", "96", "128", "192"), ordered=True),
    ),
    authors=("catalogue", "tpe", "a-model"),
    boldness=("1", "2"),
    rungs=("small", "full"),
    version="7",
)
BASE = {"norm": "layer", "attention": "full", "width": "96"}


def archive(steps: int = 12, seed: int = 0) -> Archive:
    """A baseline and a few attempts."""
    rng = np.random.default_rng(seed)
    made = Archive(
        MENU, [Attempt(id="0", program="p0", genes=BASE, outcome=Outcome.VALID, reward=0)]
    )
    policy = PuctThompson()
    for step in range(1, steps):
        decision = policy.choose(context(made, str(step)), rng)
        genes = {**made.attempts[made.row[decision.parent]].genes, **dict(decision.edits)}
        failed = rng.random() < 0.2
        made.record(
            Attempt(
                id=str(step),
                program=f"p{step}",
                parent=decision.parent,
                genes=genes,
                author=decision.author,
                part=decision.part,
                variant=decision.variant,
                outcome=Outcome.FAILED if failed else Outcome.VALID,
                reward=None if failed else float(rng.standard_normal()),
            )
        )
    return made


def context(made: Archive, name: str = "next", **more: Any) -> Context:
    """A context in the middle of a campaign."""
    values: dict[str, Any] = {
        "campaign": "c",
        "id": name,
        "archive": made,
        "budget_left": 0.5,
        **more,
    }
    return Context(**values)


def decide(seed: int = 0, **more: Any) -> Decision:
    """A decision with every head in play."""
    policy = PuctThompson(Kernel())
    return policy.choose(context(archive(), **more), np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(12))
def test_a_decision_round_trips_through_json(seed: int) -> None:
    decision = decide(seed)
    assert Decision.from_json(decision.to_json()) == decision


@pytest.mark.parametrize("seed", range(12))
def test_every_stored_distribution_sums_to_one_on_its_mask_and_keeps_the_floor(seed: int) -> None:
    for choice in decide(seed).choices:
        inside = [mu for mu, allowed in zip(choice.mu, choice.mask, strict=True) if allowed]
        assert math.isclose(sum(inside), 1.0, abs_tol=1e-9)
        assert min(inside) >= EPSILON / len(inside) - 1e-12
        assert all(m or mu == 0.0 for mu, m in zip(choice.mu, choice.mask, strict=True))


def test_the_propensity_is_the_product_of_the_drawn_probabilities() -> None:
    decision = decide(3)
    product = 1.0
    for choice in decision.choices:
        product *= choice.mu[choice.index]
    assert decision.propensity == pytest.approx(product, rel=1e-12)


def test_the_stored_distribution_is_the_recomputed_one() -> None:
    for choice in decide(5).choices:
        again = floored(np.array(choice.prior), np.array(choice.mask))
        assert np.array_equal(again, np.array(choice.mu))


def test_the_same_generator_state_gives_the_same_decision() -> None:
    assert decide(11).to_json() == decide(11).to_json()


@pytest.mark.parametrize(
    "change", [{"mu": (0.5, 0.4)}, {"mask": (True, False)}, {"index": 2}, {"options": ("a",)}]
)
def test_a_choice_that_does_not_add_up_is_refused(change: dict[str, object]) -> None:
    whole = Choice(head=Head.PART, options=("a", "b"), mask=(True, True), mu=(0.5, 0.5), index=1)
    with pytest.raises(ValueError, match="part"):
        dataclasses.replace(whole, **change)  # type: ignore[arg-type]


def test_no_edit_repeats_a_program_that_the_archive_holds() -> None:
    made = archive(30)
    held = {tuple(sorted(a.genes.items())) for a in made.attempts}
    for seed in range(60):
        decision = PuctThompson().choose(
            context(made, closed_authors=frozenset({"tpe", "a-model"})), np.random.default_rng(seed)
        )
        genes = {**made.attempts[made.row[decision.parent]].genes, **dict(decision.edits)}
        assert tuple(sorted(genes.items())) not in held


def test_a_closed_edit_and_a_closed_author_are_never_drawn() -> None:
    made = archive()
    shut = frozenset(("norm", variant) for variant in ("rms", "none", "layer"))
    closed = {attempt.id: shut for attempt in made.attempts}
    for seed in range(60):
        decision = PuctThompson().choose(
            context(made, closed=closed, closed_authors=frozenset({"a-model"})),
            np.random.default_rng(seed),
        )
        assert decision.author != "a-model"
        assert "norm" not in dict(decision.edits)


def test_a_directive_restricts_a_head() -> None:
    only = {Head.AUTHOR: frozenset({"catalogue"}), Head.PART: frozenset({"width"})}
    for seed in range(20):
        decision = decide(seed, only=only)
        assert (decision.author, decision.part) == ("catalogue", "width")


def test_without_a_measured_program_there_is_nothing_to_choose_from() -> None:
    with pytest.raises(UsageError, match="measured program"):
        PuctThompson().choose(context(Archive(MENU)), np.random.default_rng(0))


def test_a_model_is_asked_about_a_part_and_left_free_in_how() -> None:
    only = {Head.AUTHOR: frozenset({"a-model"})}
    assert decide(1, only=only).variant == "free"


def test_the_optimizer_author_moves_dials_only() -> None:
    made = archive(30)
    only = {Head.AUTHOR: frozenset({"tpe"})}
    for seed in range(4):
        decision = PuctThompson().choose(context(made, only=only), np.random.default_rng(seed))
        assert [part for part, _ in decision.edits] == ["width"]
        parent = made.attempts[made.row[decision.parent]]
        assert decision.variant != parent.genes["width"]
