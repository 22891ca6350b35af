"""The actor and the critics in torch: what an update differentiates. Imports torch.

Weights are the arrays of the network module under the same names.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nightlab.agents.policy.batch import Batch, HeadBatch
from nightlab.agents.policy.draw import EPSILON
from nightlab.agents.policy.network import HEADS, MEMBERS, Weights

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class HeadView:
    """One head's distribution over a batch."""

    batch: HeadBatch
    log_pi: Tensor
    """Log probabilities before the floor, shape (draws, options); very negative off the mask."""
    taken: Tensor
    """Log probability of the drawn option with the floor, shape (draws,)."""


def parameters(weights: Weights, dtype: torch.dtype = torch.float32) -> Parameters:
    """Copies that require gradients."""
    return {n: torch.tensor(w, dtype=dtype, requires_grad=True) for n, w in weights.items()}


def arrays(params: Parameters) -> Weights:
    """The parameters as float32 arrays."""
    return {n: p.detach().to(torch.float32).numpy().copy() for n, p in params.items()}


def actor(params: Parameters, batch: Batch) -> dict[int, HeadView]:
    """Distributions of every head that the batch drew."""
    return {head: _view(params, head, heads) for head, heads in batch.heads.items()}


def _view(params: Parameters, head: int, batch: HeadBatch) -> HeadView:
    name = HEADS[head]
    dtype = params[f"{name}.1"].dtype
    x = torch.from_numpy(batch.features).to(dtype)
    hidden = torch.relu(x @ params[f"{name}.1"] + params[f"{name}.b1"])
    hidden = torch.relu(hidden @ params[f"{name}.2"] + params[f"{name}.b2"])
    logits = (hidden @ params[f"{name}.3"])[..., 0]
    logits = logits + params[f"{name}.base"] * torch.from_numpy(batch.log_prior).to(dtype)
    mask = torch.from_numpy(batch.mask)
    log_pi = torch.log_softmax(logits.masked_fill(~mask, -1e9), dim=1)
    drawn = log_pi.gather(1, torch.from_numpy(batch.index)[:, None])[:, 0]
    uniform = EPSILON / mask.sum(dim=1)
    taken = torch.log((1.0 - EPSILON) * drawn.exp() + uniform)
    return HeadView(batch, log_pi, taken)


def joint(views: dict[int, HeadView], count: int) -> Tensor:
    """Log probability of each decision's whole action, floor included, shape (decisions,)."""
    dtype = next(iter(views.values())).taken.dtype if views else torch.float32
    total = torch.zeros(count, dtype=dtype)
    for view in views.values():
        total = total.index_add(0, torch.from_numpy(view.batch.decision), view.taken)
    return total


def critic(params: Parameters, member: int, head: int, features: Tensor) -> Tensor:
    """Foretold (reward, advantage) of options, shape (..., 2); features of shape (..., INPUT)."""
    name = f"critic{member}"
    first = params[f"{name}.1"]
    width = features.shape[-1]
    # the head's one-hot columns, as a bias
    hidden = torch.relu(features @ first[:width] + first[width + head] + params[f"{name}.b1"])
    out: Tensor = hidden @ params[f"{name}.2"] + params[f"{name}.b2"]
    return out


def critics(params: Parameters, head: int, features: Tensor) -> Tensor:
    """All members, shape (MEMBERS, ..., 2)."""
    return torch.stack([critic(params, member, head, features) for member in range(MEMBERS)])


def cross_fitted(params: Parameters, head: int, batch: HeadBatch, fold: np.ndarray) -> Tensor:
    """Foretold reward of every option by the member that never saw the decision's fold,
    shape (draws, options)."""
    features = torch.from_numpy(batch.features)
    every = critics(params, head, features)[..., 0]
    member = torch.from_numpy(fold[batch.decision])
    picked: Tensor = every[member, torch.arange(len(member))]
    return picked
