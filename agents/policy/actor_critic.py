"""The learned policy: a prior corrected by a small network that changes only on evidence.

The prior is the bandit's (PUCT, Thompson sampling), with a share of foresight: mass on the edits
whose expected improvement under the campaign's surrogate is largest. The share is the surrogate's
leave-one-out correlation, so a campaign in which nothing can be foretold is left to the bandit.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nightlab.agents.policy.bandit import PuctThompson, decide
from nightlab.agents.policy.batch import Batch, Replay, by_campaign, replay_weight, teaches
from nightlab.agents.policy.decisions import Decision, Record
from nightlab.agents.policy.gate import Judgement
from nightlab.agents.policy.heads import PriorScorer
from nightlab.agents.policy.interface import Context, Update
from nightlab.agents.policy.network import NetworkScorer, Weights, fresh
from nightlab.agents.policy.situation import Situation
from nightlab.agents.policy.surrogate import Kernel
from nightlab.agents.policy.training import Adam, Moments, judged, train

NAME = "actor-critic"
PRIOR_VERSION = f"prior-{PuctThompson.version}"
"""Version in charge where no weights are: the bandit with the surrogate's foresight."""
MOST_FORESIGHT = 0.9


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How much work one update does; fixed on NAS-Bench-201 CIFAR-10 only."""

    steps: int = 2
    """Gradient steps per update."""
    size: int = 64
    """Decisions per step."""
    least: int = 48
    """Records before the first step."""
    every: int = 8
    """Updates between two gates."""
    held_out: float = 0.25
    """Latest share of a campaign that is kept from training."""
    gate_size: int = 384
    """Most held-out decisions that a gate looks at."""
    rate: float = 1e-3


class ActorCritic:
    """Policy whose version in charge is a set of weights, or the prior (``weights`` None)."""

    name = NAME

    def __init__(
        self,
        weights: Weights | None = None,
        *,
        version: str = "",
        seed: int = 0,
        kernel: Kernel | None = None,
        learning: Learning | None = None,
    ) -> None:
        self.kernel = kernel or Kernel()
        self.learning = learning or Learning()
        self.weights = weights
        self.version = version or (PRIOR_VERSION if weights is None else "1")
        self.candidate: Weights = {n: w.copy() for n, w in (weights or fresh(seed)).items()}
        self.moments: Moments = Adam.start(self.candidate)
        self.updates = 0
        self.adoptions = 0
        self.replay = Replay()

    def choose(self, context: Context, rng: np.random.Generator) -> Decision:
        """Draw an action. Raises UsageError where no program has been measured yet."""
        situation = Situation(context, self.kernel)
        scorer = PriorScorer() if self.weights is None else NetworkScorer(self.weights)
        note = "the prior is in charge" if self.weights is None else ""
        share = foresight(situation)
        return decide(context, situation, scorer, rng, self.name, self.version, note, share)

    def learn(self, records: Sequence[Record], rng: np.random.Generator) -> Update:
        """Train the candidate a little; now and then let the gate decide on it.

        ``records`` is everything stored, oldest first within a campaign. Pending and lost ones
        are skipped.
        """
        return self._learn(records, rng, gate=(self.updates + 1) % self.learning.every == 0)

    def learn_at_length(
        self,
        records: Sequence[Record],
        rng: np.random.Generator,
        rounds: int,
        heard: Callable[[int, Mapping[str, float]], None] = lambda _done, _losses: None,
    ) -> Update:
        """Many updates on the same records, and the gate once, at the end: asking it after each
        would let the held-out decisions choose. ``heard`` is told of every round."""
        update = self._learn(records, rng, gate=rounds <= 1)
        for done in range(1, rounds):
            heard(done, update.numbers)
            update = self._learn(records, rng, gate=done == rounds - 1)
        heard(rounds, update.numbers)
        return update

    def _learn(self, records: Sequence[Record], rng: np.random.Generator, gate: bool) -> Update:
        began = time.perf_counter()
        known = [record for record in records if teaches(record)]
        if len(known) < self.learning.least:
            reason = f"{len(known)} decisions are too few to learn from"
            return Update(adopted=False, version=self.version, reason=reason, records=len(known))
        rewards, gains = self.replay.targets(known)
        train_on, held = split(known, self.learning.held_out)
        numbers: dict[str, float] = {}
        for _ in range(self.learning.steps):
            picked = self._sample(known, train_on, rng)
            batch = self._batch(known, rewards, gains, picked)
            self.moments, numbers = train(self.candidate, self.moments, batch, self.learning.rate)
        self.updates += 1
        judgement, ess = Judgement(False, "not judged this time"), 0.0
        if gate and len(held) >= 2:
            judgement, ess = self._gate(known, rewards, gains, held, rng)
        return Update(
            adopted=judgement.adopt,
            version=self.version,
            reason=judgement.reason,
            records=len(known),
            ess=ess,
            numbers={**numbers, **judgement.numbers, "seconds": time.perf_counter() - began},
            judged=gate and len(held) >= 2,
        )

    def save(self, folder: Path) -> None:
        """Write weights in charge, candidate, optimizer and counters."""
        from nightlab.agents.policy.stored import write

        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "candidate.safetensors", self.candidate)
        write(folder / "moments.safetensors", self.moments.arrays())
        if self.weights is not None:
            write(folder / "weights.safetensors", self.weights)
        else:
            (folder / "weights.safetensors").unlink(missing_ok=True)
        state = {
            "policy": self.name,
            "version": self.version,
            "updates": self.updates,
            "adoptions": self.adoptions,
            "steps": self.moments.steps,
        }
        (folder / "policy.json").write_text(json.dumps(state))

    def _sample(
        self, known: list[Record], places: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        weight = np.array([replay_weight(known[place]) for place in places])
        size = min(self.learning.size, len(places))
        return places[rng.choice(len(places), size=size, replace=False, p=weight / weight.sum())]

    def _batch(
        self, known: list[Record], rewards: np.ndarray, gains: np.ndarray, places: np.ndarray
    ) -> Batch:
        return self.replay.batch([known[p] for p in places], rewards[places], gains[places])

    def _gate(
        self,
        known: list[Record],
        rewards: np.ndarray,
        gains: np.ndarray,
        held: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[Judgement, float]:
        batch = self._batch(known, rewards, gains, held[-self.learning.gate_size :])
        judgement, ess = judged(self.candidate, self.weights, batch, rng)
        if judgement.adopt:
            self.adoptions += 1
            self.weights = {name: weight.copy() for name, weight in self.candidate.items()}
            self.version = f"{self.version.split('+')[0]}+{self.adoptions}"
        elif self.weights is not None:
            back, bandit_ess = judged(None, self.weights, batch, rng)
            if back.adopt:
                self.weights, self.version = None, PRIOR_VERSION
                reason = f"returned to the prior: {back.reason}"
                return replace(back, adopt=True, reason=reason), bandit_ess
        return judgement, ess


def foresight(situation: Situation) -> float:
    """Share of the prior that follows the surrogate: as far as its forecasts have come true."""
    if situation.surrogate is None:
        return 0.0
    return MOST_FORESIGHT * max(0.0, situation.surrogate.trust())


def split(known: Sequence[Record], share: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions to train on and positions held out: the latest share of every campaign."""
    train_on, held = [], []
    for places in by_campaign(known).values():
        cut = len(places) - int(len(places) * share)
        train_on.extend(places[:cut])
        held.extend(places[cut:])
    return np.array(sorted(train_on), np.int64), np.array(sorted(held), np.int64)
