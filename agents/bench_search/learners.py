"""The arms that are policies, and the rule that a warm one never saw the table it is tested on."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nightlab.agents.bench_search.arms import Arm
from nightlab.agents.bench_search.campaign import Campaign
from nightlab.agents.bench_search.objective import Objective
from nightlab.agents.policy.actor_critic import ActorCritic, Learning
from nightlab.agents.policy.bandit import PuctThompson
from nightlab.agents.policy.greedy import SurrogateGreedy
from nightlab.agents.policy.interface import Policy
from nightlab.agents.policy.network import Weights
from nightlab.agents.policy.stored import read
from nightlab.agents.policy.surrogate import Kernel, Surrogate
from nightlab.errors import UsageError

CHECKPOINTS = (50, 150, 300)
"""Looks at which a regret is reported."""

COLD = Learning(steps=8, every=1)
LEARN_EVERY = 16
"""The cold arm learns in batches of so many looks, with the same number of steps per look."""


def run(policy: Policy, objective: Objective, rng: np.random.Generator, learns: bool) -> None:
    """One campaign of a policy; ends by the objective's ``SpentError``."""
    campaign = Campaign("bench", objective, rng)
    while True:
        try:
            campaign.step(policy)
        except UsageError:
            return
        looks = len(campaign.archive)
        if learns and looks % LEARN_EVERY == 0:
            policy.learn(campaign.records, rng)
        if objective.noisy and looks in CHECKPOINTS:
            objective.recommend(most_certain(campaign))


def most_certain(campaign: Campaign) -> tuple[int, ...]:
    """The looked-at program with the highest lower bound of the surrogate's belief."""
    surrogate = Surrogate.of(campaign.archive, Kernel())
    codes = np.array(campaign.archive.codes, dtype=np.int64)
    if surrogate is None:
        return tuple(codes[0].tolist())
    belief = surrogate.predict(codes)
    return tuple(codes[int(np.argmax(belief.mean - belief.deviation))].tolist())


def bandit(objective: Objective, rng: np.random.Generator) -> None:
    """PUCT and Thompson sampling, nothing foretold, nothing learned."""
    run(PuctThompson(), objective, rng, learns=False)


def surrogate_greedy(objective: Objective, rng: np.random.Generator) -> None:
    """Ablation: the surrogate's best expected improvement, without the learned actor."""
    run(SurrogateGreedy(), objective, rng, learns=False)


def cold(objective: Objective, rng: np.random.Generator) -> None:
    """Starts as the bandit, learns from this campaign only."""
    seed = int(rng.integers(2**31))
    run(ActorCritic(None, seed=seed, learning=COLD), objective, rng, learns=True)


POLICIES: Mapping[str, Arm] = {
    "bandit": bandit,
    "surrogate greedy": surrogate_greedy,
    "policy cold": cold,
}
"""Arms that are policies and need no weights."""


class Warm:
    """A pre-trained policy, its weights frozen during a campaign."""

    def __init__(self, weights: Weights, trained_on: frozenset[str]) -> None:
        self.weights = weights
        self.trained_on = trained_on

    def __call__(self, objective: Objective, rng: np.random.Generator) -> None:
        """One campaign. Raises UsageError on a table that the weights were trained on."""
        table = objective.table.name.removesuffix("-permuted")
        if table in self.trained_on:
            raise UsageError(
                f"These weights were trained on {table}: a result there would mean nothing."
            )
        run(ActorCritic(self.weights, version="warm"), objective, rng, learns=False)


def warm_arm(paths: list[Path], table: str) -> Warm:
    """The first weights that never saw the table. Raises UsageError where all of them did."""
    for path in paths:
        weights, about = read(path)
        trained_on = frozenset(about.get("trained_on", "?").split(","))
        if table not in trained_on and "?" not in trained_on:
            return Warm(weights, trained_on)
    raise UsageError(
        f"Every given set of weights was trained on {table} (or does not say on what)."
    )
