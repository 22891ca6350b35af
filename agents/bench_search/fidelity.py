"""Two fidelities: many cheap looks, and full looks for what they promise.

A cheap look ranks the whole space and not its top, so it rejects and never crowns: only full
looks are handed over. Baselines promote a fixed share; the policy's campaign promotes what a
calibration on the programs seen both ways says could still beat the best full look.
"""

from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.bench_search.arms import Arm, mutated, random_cell, regularized_evolution
from nightlab.agents.bench_search.campaign import Campaign
from nightlab.agents.bench_search.objective import Cell, Objective
from nightlab.agents.policy.actor_critic import ActorCritic
from nightlab.agents.policy.interface import Archive, Attempt, Context, Outcome, Policy
from nightlab.agents.policy.network import Weights

Floats = NDArray[np.float64]

ETA = 4
"""Baselines promote the best 1/ETA of the cheap looks."""
LEAST_PAIRS = 6
"""Programs seen both ways before the calibration is used; until then 1/ETA is promoted."""


class Promotion:
    """ASHA's rule without a barrier: promote the best unpromoted of the top 1/ETA."""

    def __init__(self) -> None:
        self.low: dict[Cell, float] = {}
        self.full: dict[Cell, float] = {}

    def next(self) -> Cell | None:
        """The program to promote now, if any."""
        best = sorted(self.low, key=lambda cell: -self.low[cell])[: len(self.low) // ETA]
        return next((cell for cell in best if cell not in self.full), None)


def asha_random(objective: Objective, rng: np.random.Generator) -> None:
    """ASHA over random programs."""
    promotion = Promotion()
    while True:
        cell = promotion.next()
        if cell is not None:
            promotion.full[cell] = objective.look(cell)
        else:
            cell = random_cell(objective.shape, rng)
            promotion.low[cell] = objective.look(cell, low=True)


def evolution_fixed_share(objective: Objective, rng: np.random.Generator) -> None:
    """Regularized evolution on cheap looks; the top 1/ETA is promoted."""
    promotion = Promotion()
    alive: deque[tuple[float, Cell]] = deque(maxlen=20)
    while True:
        chosen = promotion.next()
        if chosen is not None:
            promotion.full[chosen] = objective.look(chosen)
            continue
        if len(alive) < 20:
            cell = random_cell(objective.shape, rng)
        else:
            drawn = [alive[int(i)] for i in rng.integers(20, size=5)]
            cell = mutated(max(drawn)[1], objective.shape, rng)
        score = objective.look(cell, low=True)
        promotion.low[cell] = score
        alive.append((score, cell))


class TwoFidelity:
    """A policy's campaign whose attempts are screened by cheap looks."""

    def __init__(self, policy: Policy, objective: Objective, rng: np.random.Generator) -> None:
        self.policy = policy
        self.objective = objective
        self.rng = rng
        self.campaign = Campaign("bench", objective, rng, starts=0)
        self.cells: list[Cell] = []
        self.parents: list[int] = []
        self.edits: list[tuple[str, str, str]] = []
        self.low: list[float] = []
        self.full: dict[int, float] = {}
        self.stale = True
        self.scale: tuple[Floats, float] = (np.zeros(0), 0.0)

    def run(self, starts: int) -> None:
        """Until the objective's ``SpentError``."""
        for _ in range(starts):
            self._screen(random_cell(self.objective.shape, self.rng), -1, ("", "", "1"))
        while True:
            self._step()

    def _step(self) -> None:
        archive = self._archive()
        context = Context(
            campaign="bench",
            id=f"bench:{len(archive)}",
            archive=archive,
            budget_left=self.objective.left,
        )
        decision = self.policy.choose(context, self.rng)
        how = (decision.part, decision.variant, decision.boldness)
        self._screen(self.campaign.cell(decision), archive.row[decision.parent], how)

    def _screen(self, cell: Cell, parent: int, how: tuple[str, str, str]) -> None:
        self.low.append(self.objective.look(cell, low=True))
        self.cells.append(cell)
        self.parents.append(parent)
        self.edits.append(how)
        estimate, deviation = self._calibrated()
        place = len(self.low) - 1
        if len(self.full) < LEAST_PAIRS:
            order = np.argsort(-np.array(self.low))[: max(1, len(self.low) // ETA)]
            promote = [int(i) for i in order if int(i) not in self.full][:1]
        else:
            hopeful = estimate[place] + deviation > max(self.full.values())
            promote = [place] if hopeful else []
        for chosen in promote:
            self.full[chosen] = self.objective.look(self.cells[chosen])
            self.stale = True

    def _calibrated(self) -> tuple[Floats, float]:
        """Full scores foretold from cheap ones (least squares on the best pairs), and the
        deviation of what is left."""
        low = np.array(self.low)
        if len(self.full) < LEAST_PAIRS:
            return low, 0.0
        pairs = sorted(self.full, key=lambda place: -self.full[place])[:40]
        x, y = low[pairs], np.array([self.full[place] for place in pairs])
        slope = float(np.cov(x, y)[0, 1] / max(x.var(ddof=1), 1e-12))
        estimate = y.mean() + max(slope, 0.0) * (low - x.mean())
        return estimate, float(np.std(y - estimate[pairs]))

    def _archive(self) -> Archive:
        """Attempts ranked on one scale: full scores, and lower bounds of foretold ones.

        Built anew after a promotion, because that moves the scale; else the new ones are added.
        """
        if self.stale:
            self.scale = self._calibrated()
            self.campaign.archive = Archive(self.campaign.menu)
            self.stale = False
        archive = self.campaign.archive
        estimate, deviation = self.scale
        if len(estimate) < len(self.low):
            estimate = self._calibrated()[0]
        for place in range(len(archive), len(self.cells)):
            archive.record(self._attempt(place, float(estimate[place]) - 0.5 * deviation))
        return archive

    def _attempt(self, place: int, foretold: float) -> Attempt:
        parent = self.parents[place]
        part, variant, boldness = self.edits[place]
        cell = self.cells[place]
        return Attempt(
            id=f"a{place}",
            program=str(cell),
            parent=None if parent < 0 else f"a{parent}",
            genes=self.campaign.genes(cell),
            author="seed" if parent < 0 else "catalogue",
            part=part,
            variant=variant,
            boldness=boldness,
            outcome=Outcome.VALID,
            reward=self.full.get(place, foretold),
        )


def warm_two_fidelity(weights: Weights, objective: Objective, rng: np.random.Generator) -> None:
    """The warm policy on cheap looks with calibrated promotion."""
    TwoFidelity(ActorCritic(weights, version="warm"), objective, rng).run(starts=16)


TWO_FIDELITY: Mapping[str, Arm] = {
    "evolution, full looks only": regularized_evolution,
    "asha": asha_random,
    "evolution, fixed share": evolution_fixed_share,
}
"""Arms of the two-fidelity mode that need no weights."""
