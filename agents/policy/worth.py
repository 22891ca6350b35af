"""The value of a version on logged decisions, from its distributions and the critics. Imports
torch."""

import numpy as np
import torch
from numpy.typing import NDArray

from nightlab.agents.policy import model
from nightlab.agents.policy.batch import Batch, HeadBatch
from nightlab.agents.policy.draw import EPSILON
from nightlab.agents.policy.gate import CLIP, Worth
from nightlab.agents.policy.model import Parameters

Floats = NDArray[np.float64]


def worth(params: Parameters, batch: Batch, critic: Parameters, bandit: bool = False) -> Worth:
    """Doubly-robust worth of the actor in ``params`` (or of the bandit) with given critics."""
    with torch.no_grad():
        views = {} if bandit else model.actor(params, batch)
        draws = max(int(heads.place.max()) for heads in batch.heads.values()) + 1
        shape = (len(batch), draws)
        value, taken, ratio = np.zeros(shape), np.zeros(shape), np.ones(shape)
        drawn = np.zeros(shape, np.bool_)
        for head, heads in batch.heads.items():
            pi = _floored(prior(heads) if bandit else views[head].log_pi.exp().numpy(), heads.mask)
            q = model.cross_fitted(critic, head, heads, batch.fold).numpy()
            rows = np.arange(len(heads.index))
            at = (heads.decision, heads.place)
            value[at] = (pi * q).sum(axis=1)
            taken[at] = q[rows, heads.index]
            ratio[at] = pi[rows, heads.index] / heads.mu[rows, heads.index]
            drawn[at] = True
    terms, weights = sequential(value, taken, ratio, drawn, batch.reward.astype(np.float64))
    return Worth(terms, weights, batch.reward.astype(np.float64))


def sequential(
    value: Floats, taken: Floats, ratio: Floats, drawn: NDArray[np.bool_], reward: Floats
) -> tuple[Floats, Floats]:
    """Doubly-robust terms and clipped joint weights, each of shape (decisions,).

    ``value``, ``taken`` (q of the drawn option) and ``ratio`` have shape (decisions, draws);
    a decision's draws come first in its row.
    """
    cumulative = np.minimum(np.cumprod(np.where(drawn, ratio, 1.0), axis=1), CLIP)
    before = np.concatenate([np.ones((len(reward), 1)), cumulative[:, :-1]], axis=1)
    parts = np.where(drawn, before * value - cumulative * taken, 0.0)
    joint = cumulative[:, -1]
    return parts.sum(axis=1) + joint * reward, joint


def prior(heads: HeadBatch) -> Floats:
    """What the bandit draws from, before the floor, shape (draws, options)."""
    weights = np.where(heads.mask, np.exp(heads.log_prior.astype(np.float64)), 0.0)
    result: Floats = weights / weights.sum(axis=1, keepdims=True)
    return result


def _floored(pi: Floats, mask: NDArray[np.bool_]) -> Floats:
    result: Floats = (1.0 - EPSILON) * pi + EPSILON * mask / mask.sum(axis=1, keepdims=True)
    return result
