"""Two fidelities: any arm searches by cheap looks, and full looks go to what they promise.

A cheap look ranks the whole space and not its top, so it rejects and never crowns: only full
looks are handed over. By default both rungs get an even share of the budget, the rule that real
campaigns widen their margins by (``evals/rungs.py``).
"""

from collections.abc import Mapping

import numpy as np

from nightlab.agents.bench_search.arms import BASELINES, Arm
from nightlab.agents.bench_search.campaign import Campaign
from nightlab.agents.bench_search.objective import Cell, Objective
from nightlab.agents.policy.actor_critic import ActorCritic
from nightlab.agents.policy.bandit import PuctThompson
from nightlab.agents.policy.greedy import SurrogateGreedy
from nightlab.agents.policy.interface import Policy
from nightlab.agents.policy.network import Weights
from nightlab.errors import UsageError
from nightlab.evals.rungs import even_share

STARTS = 16
"""Random programs that a policy's campaign on the cheap rung starts from, and starts again from."""
PATIENCE = 48
"""Looks without a new best after which it starts again: cheap looks are many, and a search that
is stuck spends the rest of them around one program. Fixed on NAS-Bench-201 CIFAR-10."""
QUARTER = 0.25


class Screened(Objective):
    """An objective's cheap looks; whenever full looks are due they are taken, best first."""

    def __init__(self, full: Objective, share: float | None = None) -> None:
        """``share``: part of the cheap looks to promote; None spends as much on both rungs."""
        super().__init__(full.table, full.budget, np.random.default_rng(0))
        self.inner = full
        self.share = share
        self.looks = 0
        self.low: dict[Cell, float] = {}
        self.full: dict[Cell, float] = {}

    @property
    def left(self) -> float:
        return self.inner.left

    def look(self, cell: Cell, low: bool = True) -> float:
        """Cheap score of a program, after which what is due is promoted."""
        score = self.low[cell] = self.inner.look(cell, low=low)
        self.looks += 1
        while (chosen := self._due()) is not None:
            self.full[chosen] = self.inner.look(chosen)
        return score

    def _due(self) -> Cell | None:
        if self.share is None:
            spent = self.looks * self.inner.table.low_cost
            if not even_share(spent, len(self.full), price=1.0):
                return None
        waiting = [cell for cell in self.low if cell not in self.full]
        best = max(waiting, key=self.low.__getitem__, default=None)
        if best is None or self.share is None:
            return best
        # ASHA's rule without a barrier: whoever is unpromoted in the top share
        above = sum(score > self.low[best] for score in self.low.values())
        return best if above < int(len(self.low) * self.share) else None


def two_rungs(arm: Arm, share: float | None = None) -> Arm:
    """The same arm, searching by cheap looks."""

    def run(objective: Objective, rng: np.random.Generator) -> None:
        arm(Screened(objective, share), rng)

    return run


def restarted(policy: Policy, objective: Objective, rng: np.random.Generator) -> None:
    """Campaigns of a policy, each until nothing better came for :data:`PATIENCE` looks."""
    while True:
        campaign = Campaign("bench", objective, rng, starts=STARTS)
        best, since = campaign.archive.rewards(range(STARTS)).max(), 0
        while since < PATIENCE:
            try:
                reward = campaign.step(policy).reward
            except UsageError:  # everything one edit away has been tried
                break
            since = since + 1 if reward is None or reward <= best else 0
            best = max(best, reward or best)


def warm_two_fidelity(weights: Weights, objective: Objective, rng: np.random.Generator) -> None:
    """The warm policy on cheap looks."""
    restarted(ActorCritic(weights, version="warm"), Screened(objective), rng)


def _cold(objective: Objective, rng: np.random.Generator) -> None:
    restarted(ActorCritic(None), objective, rng)


def _bandit(objective: Objective, rng: np.random.Generator) -> None:
    restarted(PuctThompson(), objective, rng)


def _greedy(objective: Objective, rng: np.random.Generator) -> None:
    restarted(SurrogateGreedy(), objective, rng)


_EVOLUTION = BASELINES["regularized evolution"]

TWO_FIDELITY: Mapping[str, Arm] = {
    **{
        name: two_rungs(BASELINES[name])
        for name in ("random", "local search", "regularized evolution", "tpe")
    },
    "regularized evolution, a quarter promoted": two_rungs(_EVOLUTION, QUARTER),
    "regularized evolution, full looks only": _EVOLUTION,
    "local search, full looks only": BASELINES["local search"],
    "bandit": two_rungs(_bandit),
    "surrogate greedy": two_rungs(_greedy),
    "policy cold": two_rungs(_cold),
}
"""Arms of the two-fidelity mode that need no weights: on both rungs unless the name says other."""
