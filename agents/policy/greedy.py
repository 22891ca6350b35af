"""The surrogate without a learned actor: an ablation, to show what the actor adds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.policy.bandit import decide
from nightlab.agents.policy.decisions import Decision, Head, Record
from nightlab.agents.policy.features import PARENT, PART, VARIANT
from nightlab.agents.policy.heads import Scored
from nightlab.agents.policy.interface import Context, Update
from nightlab.agents.policy.situation import Situation
from nightlab.agents.policy.surrogate import Kernel

Floats = NDArray[np.float64]

_COLUMN = {
    Head.PARENT: PARENT.index("edit_gain_rank"),
    Head.PART: PART.index("edit_gain_rank"),
    Head.VARIANT: VARIANT.index("edit_gain_rank"),
}


class GreedyScorer:
    """All mass on the edit with the highest expected improvement; one edit at a time."""

    def score(
        self, head: Head, features: Floats, context: Floats, prior: Floats, mask: NDArray[np.bool_]
    ) -> Scored:
        del context
        if head is Head.BOLDNESS:
            return Scored(np.eye(len(prior))[0])
        if head not in _COLUMN:
            return Scored(prior)
        rank = np.where(mask, features[:, _COLUMN[head]], -1.0)
        return Scored((rank == rank.max()).astype(np.float64))


class SurrogateGreedy:
    """Expected improvement of the surrogate, wrapped in the usual floor."""

    name = "surrogate-greedy"
    version = "1"

    def __init__(self) -> None:
        self.kernel = Kernel()

    def choose(self, context: Context, rng: np.random.Generator) -> Decision:
        """Draw an action. Raises UsageError where no program has been measured yet."""
        situation = Situation(context, self.kernel)
        return decide(context, situation, GreedyScorer(), rng, self.name, self.version)

    def learn(self, records: Sequence[Record], rng: np.random.Generator) -> Update:
        """Nothing to learn: the surrogate is fitted at every choice."""
        del rng
        reason = "the surrogate has no weights"
        return Update(adopted=False, version=self.version, reason=reason, records=len(records))

    def save(self, folder: Path) -> None:
        """Nothing to write but the folder."""
        folder.mkdir(parents=True, exist_ok=True)
