"""Landscapes of recorded and made-up edits, and a surrogate that keeps trying untouched parts."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from nightlab.agents.bench_search.landscape import DATA, Campaign, recorded, run
from nightlab.agents.bench_search.nights import night_records, simulated_night
from nightlab.agents.bench_search.singles import wanted
from nightlab.agents.policy.actor_critic import ActorCritic
from nightlab.agents.policy.interface import Archive, Attempt, Menu, Outcome, Part
from nightlab.agents.policy.stored import bandit
from nightlab.agents.policy.surrogate import Kernel, Surrogate
from nightlab.evals.task import load


def trials() -> dict[str, float]:
    """Recorded gains by name."""
    path = Path(str(resources.files("nightlab.agents.bench_search"))) / DATA
    found = json.loads(path.read_text())
    return {name: found["baseline"] - value for name, value in found["trials"].items()}


def test_what_ships_is_most_single_edits_of_the_baseline_and_combinations() -> None:
    names = set(trials())
    able = {one.name for one in wanted(load("byte_lm").baseline, 0)} - {"baseline"}
    assert len(able & names) > 0.75 * len(able)
    assert sum(" " in name for name in names) > 50


def test_the_sum_of_single_gains_foretells_recorded_combinations() -> None:
    found = trials()
    both = [name for name in found if " " in name]
    sums = [sum(found[edit] for edit in name.split()) for name in both]
    assert np.corrcoef(sums, [found[name] for name in both])[0, 1] > 0.8


def test_recorded_programs_change_each_part_once() -> None:
    for one in wanted(load("byte_lm").baseline, 20):
        assert one.name == "baseline" or one.program.id != load("byte_lm").baseline.id
        assert len(one.edits) <= 5


def test_a_landscape_is_fixed_by_its_seed_and_zero_at_the_baseline() -> None:
    one, same, other = recorded(1), recorded(1), recorded(2)
    edited = {**one.baseline, "batch": "8", "optimizer": "muon"}
    assert one.gain(one.baseline) == 0.0
    assert one.gain(edited) == same.gain(edited)
    assert one.gain(edited) != other.gain(edited)
    alone = {**one.baseline, "batch": "8"}
    assert one.gain(alone) == other.gain(alone) > 0.2


@pytest.mark.parametrize("seed", range(6))
def test_a_made_up_night_can_be_played(seed: int) -> None:
    land = simulated_night(seed)
    assert 10 <= len(land.parts) <= 30
    assert land.noise > 0
    assert land.gains == simulated_night(seed).gains
    for part in land.parts:
        assert f"{part.name}={land.baseline[part.name]}" not in land.gains


def test_nights_teach_with_full_decisions() -> None:
    records = night_records(ActorCritic(None), 3, "n")
    assert len(records) >= 20
    assert all(record.decision.context for record in records)
    assert records[5].decision.edits == night_records(ActorCritic(None), 3, "n")[5].decision.edits


def test_a_campaign_of_the_bandit_finds_a_gain() -> None:
    gains, share = run(bandit, 0, (5, 15))
    assert gains[1] > 0.3
    assert 0.3 < share <= 1.0


def archive(parts: int) -> Archive:
    """A baseline and programs that move one dial: all other parts are untouched."""
    dial = Part("dial", ("1", "2", "3", "4", "5"), ordered=True)
    others = tuple(Part(f"p{i}", ("a", "b", "c")) for i in range(parts - 1))
    made = Archive(Menu(parts=(dial, *others)))
    for place, value in enumerate(dial.variants):
        genes = {"dial": value, **{part.name: "a" for part in others}}
        made.record(
            Attempt(
                id=value,
                program=value,
                genes=genes,
                outcome=Outcome.VALID,
                reward=float(-((place - 3) ** 2)),
            )
        )
    return made


def deviation(parts: int, kernel: Kernel) -> float:
    """How unsure the surrogate is of an edit to a part that was never touched."""
    made = archive(parts)
    surrogate = Surrogate.of(made, kernel)
    assert surrogate is not None
    codes = np.array([made.codes[3]])
    codes[0, 1] = 1
    return float(surrogate.predict(codes).deviation[0])


def test_an_untouched_part_stays_as_uncertain_in_a_large_space_as_in_a_small_one() -> None:
    small, large = deviation(8, Kernel()), deviation(30, Kernel())
    assert large == pytest.approx(small, rel=0.05)
    assert deviation(30, Kernel(span=1000.0)) < 0.9 * large


def test_up_to_eight_parts_nothing_is_changed_by_the_span() -> None:
    assert deviation(8, Kernel()) == deviation(8, Kernel(span=1000.0))


def test_what_was_handed_over_is_a_true_gain_of_a_program_that_was_tried() -> None:
    campaign = Campaign("c", recorded(0), np.random.default_rng(0))
    assert campaign.handed_over() == 0.0
    campaign.step(bandit(), 1.0)
    genes = [attempt.genes for attempt in campaign.archive.attempts]
    assert campaign.handed_over() in [campaign.land.gain(one) for one in genes]
