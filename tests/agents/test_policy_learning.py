"""Learning: right gradients, a recovered optimum, a bit-exact resume, and restraint."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nightlab.agents.policy import loss, model
from nightlab.agents.policy.actor_critic import ActorCritic, Learning
from nightlab.agents.policy.batch import Replay
from nightlab.agents.policy.draw import draw
from nightlab.agents.policy.explain import explain, measured_worth, preferences
from nightlab.agents.policy.features import CONTEXT, OPTION_WIDTH
from nightlab.agents.policy.interface import Choice, Decision, Head, Outcome, Record
from nightlab.agents.policy.network import NetworkScorer, fresh
from nightlab.agents.policy.stored import load

PLANTED = np.array([0.05, 0.05, 0.87, 0.03])
"""What the logging policy drew from; the best option is the last."""
REWARD = np.array([0.3, 0.5, 0.4, 2.0])


def campaign(
    count: int,
    seed: int,
    name: str = "c",
    order: Sequence[int] = (0, 1, 2, 3),
    labels: str = "abcd",
) -> list[Record]:
    """Logged decisions of one head whose options are told apart by a feature each."""
    rng = np.random.default_rng(seed)
    features = np.zeros((4, OPTION_WIDTH))
    features[np.arange(4), np.arange(4)] = 1.0
    mask, places = np.ones(4, bool), list(order)
    records = []
    for time_ in range(count):
        one = draw(
            Head.PART, labels, mask, PLANTED, rng, features=features, prior=PLANTED, epsilon=0.0
        )
        noise = 0.2 * rng.standard_normal()
        choice = Choice(
            head=Head.PART,
            options=tuple(one.options[p] for p in places),
            mask=one.mask,
            mu=tuple(one.mu[p] for p in places),
            index=places.index(one.index),
            features=tuple(one.features[p] for p in places),
            prior=tuple(one.prior[p] for p in places),
        )
        decision = Decision(
            id=f"{name}:{time_}",
            campaign=name,
            choices=(choice,),
            edits=(),
            policy="p",
            version="1",
            catalogue="1",
            proposer="",
            seed="",
            time=time_,
            lineage=str(time_ % 12),
            context=dict.fromkeys(CONTEXT, 0.0),
        )
        reward = float(REWARD[one.index] + noise)
        records.append(Record(decision=decision, outcome=Outcome.VALID, reward=reward))
    return records


def probabilities(policy: ActorCritic, record: Record) -> np.ndarray:
    """What the candidate draws from in the situation of a record."""
    choice = record.decision.choices[0]
    scored = NetworkScorer(policy.candidate).score(
        choice.head,
        np.array(choice.features),
        np.zeros(len(CONTEXT)),
        np.array(choice.prior),
        np.array(choice.mask),
    )
    return scored.probabilities


def learned(records: list[Record], updates: int, seed: int = 0) -> tuple[ActorCritic, list[str]]:
    policy = ActorCritic(None, seed=seed, learning=Learning(rate=3e-3, every=20, gate_size=1000))
    rng = np.random.default_rng(seed)
    reasons = [policy.learn(records, rng).reason for _ in range(updates)]
    return policy, reasons


def test_learning_recovers_an_optimum_that_3_percent_of_decisions_chose() -> None:
    records = campaign(4000, seed=0)
    chosen = sum(record.decision.choices[0].index == 3 for record in records)
    assert 0.02 < chosen / len(records) < 0.045
    policy, _ = learned(records, 80)
    assert probabilities(policy, records[0])[3] > 0.5
    assert policy.version != "prior-1"
    worth = measured_worth(records, policy.candidate, np.random.default_rng(0))
    assert worth is not None
    assert worth.low > 0.0


def test_shuffled_rewards_put_no_version_in_charge() -> None:
    records = campaign(1200, seed=1)
    scores = np.random.default_rng(2).permutation([record.reward or 0.0 for record in records])
    shuffled = [replace(r, reward=float(s)) for r, s in zip(records, scores, strict=True)]
    policy, _ = learned(shuffled, 60)
    assert policy.weights is None


def test_a_fresh_actor_is_the_prior() -> None:
    record = campaign(1, seed=0)[0]
    assert np.allclose(probabilities(ActorCritic(None), record), PLANTED)


def test_relabelling_and_reordering_options_changes_nothing_learned() -> None:
    order = [2, 0, 3, 1]
    plain = campaign(400, seed=3)
    other = campaign(400, seed=3, order=order, labels="wxyz")
    first, _ = learned(plain, 10)
    second, _ = learned(other, 10)
    assert np.allclose(
        probabilities(first, plain[0])[order], probabilities(second, other[0]), atol=1e-4
    )


def test_the_objective_gradient_is_that_of_finite_differences() -> None:
    records = campaign(40, seed=4)
    replay = Replay()
    batch = replay.batch(records, *replay.targets(records))
    weights = fresh(0)
    rng = np.random.default_rng(5)
    weights["part.3"] = (0.3 * rng.standard_normal(weights["part.3"].shape)).astype(np.float32)
    params = model.parameters(weights, torch.float64)

    def objective() -> torch.Tensor:
        log_pi = model.joint(model.actor(params, batch), len(batch))
        kept = [
            torch.from_numpy(a).double() for a in (batch.propensity, batch.advantage, batch.weight)
        ]
        return loss.importance_objective(log_pi, kept[0], kept[1], kept[2], 10.0)

    slopes = torch.autograd.grad(objective(), [params["part.2"], params["part.3"]])
    for name, slope in zip(("part.2", "part.3"), slopes, strict=True):
        for _ in range(6):
            at = tuple(int(rng.integers(size)) for size in slope.shape)
            with torch.no_grad():
                params[name][at] += 1e-5
                high = objective()
                params[name][at] -= 2e-5
                low = objective()
                params[name][at] += 1e-5
            assert float((high - low) / 2e-5) == pytest.approx(float(slope[at]), abs=1e-7)


def test_a_clipped_weight_passes_no_gradient() -> None:
    log_pi = torch.log(torch.tensor([0.9, 0.2])).requires_grad_()
    value = loss.importance_objective(
        log_pi, torch.tensor([0.01, 0.2]), torch.tensor([1.0, -1.0]), torch.ones(2), clip=10.0
    )
    (slope,) = torch.autograd.grad(value, log_pi)
    assert slope[0] == 0.0
    assert slope[1] != 0.0


def test_a_rejected_trial_teaches_its_penalty_whatever_it_claimed() -> None:
    records = campaign(200, seed=6)
    tampered = [
        replace(r, outcome=Outcome.TAMPERED, reward=None) if i % 9 == 0 else r
        for i, r in enumerate(records)
    ]
    claimed = [replace(r, reward=1e6) if r.reward is None else r for r in tampered]
    first, _ = learned(tampered, 4)
    second, _ = learned(claimed, 4)
    assert all(np.array_equal(first.candidate[n], second.candidate[n]) for n in first.candidate)
    untouched, _ = learned(records, 4)
    assert any(
        not np.array_equal(first.candidate[n], untouched.candidate[n]) for n in first.candidate
    )


def test_pending_and_lost_trials_teach_nothing() -> None:
    records = campaign(100, seed=7)
    lost = [replace(r, outcome=Outcome.LOST, reward=None) for r in campaign(30, 8, name="lost")]
    first, _ = learned(records, 3)
    second, _ = learned([*records, *lost], 3)
    assert all(np.array_equal(first.candidate[n], second.candidate[n]) for n in first.candidate)


def test_a_resume_goes_on_bit_for_bit(tmp_path: Path) -> None:
    records = campaign(300, seed=9)
    policy, _ = learned(records, 5)
    policy.save(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, ActorCritic)
    again.learning = policy.learning
    for one in (policy, again):
        rng = np.random.default_rng(10)
        for _ in range(5):
            one.learn(records, rng)
    assert all(np.array_equal(policy.candidate[n], again.candidate[n]) for n in policy.candidate)
    assert policy.version == again.version


def test_few_decisions_are_left_alone() -> None:
    policy, reasons = learned(campaign(20, seed=11), 2)
    assert "too few" in reasons[-1]
    assert policy.updates == 0


def test_a_decision_is_explained_by_the_features_that_moved_it() -> None:
    records = campaign(1200, seed=0)
    policy, _ = learned(records, 40)
    record = next(r for r in records if r.decision.choices[0].index == 3)
    (reason,) = explain(record.decision, policy.candidate)
    assert reason.prior == pytest.approx(0.03)
    assert "part d" in str(reason)
    assert next(iter(reason.attribution)) == "count"
    favourite = preferences([r.decision for r in records[:50]], policy.candidate)
    assert max(favourite, key=lambda p: p.shift).option == "d"


@pytest.mark.slow
def test_an_update_costs_at_most_100_ms_with_ten_thousand_stored_experiments() -> None:
    stored: list[Record] = []
    for number in range(50):
        stored += campaign(199, seed=number, name=f"c{number}")
    policy = ActorCritic(None)
    rng = np.random.default_rng(0)
    policy.learn(stored, rng)
    spent = []
    for record in campaign(50, seed=99, name="now"):
        stored.append(record)
        began = time.process_time()
        policy.learn(stored, rng)
        spent.append(time.process_time() - began)
    assert len(stored) == 10_000
    assert np.median(spent) <= 0.1
