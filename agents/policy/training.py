"""One gradient step and one judgement, between plain arrays and torch. Torch is imported inside,
so that choosing stays quick to start."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightlab.agents.policy.batch import Batch
from nightlab.agents.policy.gate import Judgement, Worth, judge
from nightlab.agents.policy.network import Singles, Weights

if TYPE_CHECKING:
    from nightlab.agents.policy.loss import Terms

NORM = 1.0
"""Gradients are scaled down to this norm."""


@dataclass(frozen=True)
class Moments:
    """Adam's state, by weight name."""

    first: Weights
    second: Weights
    steps: int

    def arrays(self) -> Weights:
        """For storage: names with a suffix."""
        return {f"{n}.m": a for n, a in self.first.items()} | {
            f"{n}.v": a for n, a in self.second.items()
        }


class Adam:
    """Adam (0.9, 0.999) on arrays: its whole state is in :class:`Moments`, so a resume is exact."""

    @staticmethod
    def start(weights: Weights) -> Moments:
        return Moments(
            {n: np.zeros_like(w) for n, w in weights.items()},
            {n: np.zeros_like(w) for n, w in weights.items()},
            0,
        )

    @staticmethod
    def step(weights: Weights, slopes: Weights, moments: Moments, rate: float) -> Moments:
        """Change ``weights`` in place and return the next state."""
        norm = float(np.sqrt(sum(float(np.square(s).sum()) for s in slopes.values())))
        scale = np.float32(min(1.0, NORM / max(norm, 1e-12)))
        steps = moments.steps + 1
        size = np.float32(rate * np.sqrt(1.0 - 0.999**steps) / (1.0 - 0.9**steps))
        first: dict[str, Singles] = {}
        second: dict[str, Singles] = {}
        for name, slope in slopes.items():
            scaled = np.asarray(slope * scale, dtype=np.float32)
            first[name] = np.float32(0.9) * moments.first[name] + np.float32(0.1) * scaled
            second[name] = np.float32(0.999) * moments.second[name] + np.float32(0.001) * (
                scaled * scaled
            )
            weights[name] -= size * first[name] / (np.sqrt(second[name]) + np.float32(1e-8))
        return Moments(first, second, steps)


def train(
    weights: Weights,
    moments: Moments,
    batch: Batch,
    rate: float,
    terms: "Terms | None" = None,
) -> tuple[Moments, dict[str, float]]:
    """One step on ``weights`` in place: the optimizer's next state and the loss's parts.

    A batch in which no head had a choice changes nothing.
    """
    if not batch.heads:
        return moments, {}
    import torch

    from nightlab.agents.policy import loss, model

    params = model.parameters(weights)
    total, parts = loss.loss(params, batch, terms or loss.Terms())
    names = list(params)
    slopes = torch.autograd.grad(total, [params[n] for n in names], allow_unused=True)
    arrays = {
        name: np.zeros_like(weights[name]) if slope is None else slope.numpy()
        for name, slope in zip(names, slopes, strict=True)
    }
    return Adam.step(weights, arrays, moments, rate), parts


def judged(
    candidate: Weights | None, current: Weights | None, batch: Batch, rng: np.random.Generator
) -> tuple[Judgement, float]:
    """The gate's word on a candidate against what is in charge, and its ESS. None is the bandit.

    The critics of whichever has weights serve both sides, so that the difference is the actor's.
    """
    from nightlab.agents.policy import model
    from nightlab.agents.policy.worth import worth

    source = candidate if candidate is not None else current
    if source is None:
        raise ValueError("two bandits do not differ")
    if not batch.heads:
        return Judgement(False, "no held-out decision had a choice"), 0.0
    critics = model.parameters(source)

    def value(weights: Weights | None) -> Worth:
        params = critics if weights is None else model.parameters(weights)
        return worth(params, batch, critics, bandit=weights is None)

    new = value(candidate)
    return judge(new, value(current), batch.lineage, rng), new.ess
