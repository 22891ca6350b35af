"""What an update minimises. Imports torch.

    J    = sum_i v_i * clip(w_i) * A_i / sum_i v_i * clip(w_i)      self-normalised, w = pi / mu
    loss = -J - direct * E[sum_a pi(a) u(a)] + kl * KL(pi || prior mix) + floor * max(0, h - H)
           + critics' squared error

v is the replay weight, u the ensemble's pessimistic advantage (mean less one deviation), the
prior mix half prior and half uniform. The gradient of J flows through unclipped weights only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nightlab.agents.policy import model
from nightlab.agents.policy.batch import Batch
from nightlab.agents.policy.model import HeadView, Parameters
from nightlab.agents.policy.network import MEMBERS


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Sizes of the terms; fixed on NAS-Bench-201 CIFAR-10 only."""

    clip: float = 10.0
    importance: float = 1.0
    direct: float = 1.0
    kl: float = 0.3
    entropy: float = 0.05
    pessimism: float = 1.0
    """Deviations of the critics taken off the foretold advantage of the direct term."""
    entropy_floor: float = 0.15
    """Least entropy of a head over that of the uniform distribution."""
    critic: float = 0.5


def importance_objective(
    log_pi: Tensor, propensity: Tensor, gain: Tensor, weight: Tensor, clip: float
) -> Tensor:
    """J: the self-normalised, clipped importance-weighted mean of the advantages, a scalar."""
    w = weight * torch.clamp(torch.exp(log_pi) / propensity, max=clip)
    return (w * gain).sum() / torch.clamp(w.sum(), min=1e-8)


def loss(params: Parameters, batch: Batch, terms: Terms) -> tuple[Tensor, dict[str, float]]:
    """The scalar to minimise and its parts for the log."""
    views = model.actor(params, batch)
    dtype = next(iter(views.values())).taken.dtype
    weight = torch.from_numpy(batch.weight).to(dtype)
    weight = weight / weight.sum()
    gain = torch.from_numpy(batch.advantage).to(dtype)
    reward = torch.from_numpy(batch.reward).to(dtype)
    objective = importance_objective(
        model.joint(views, len(batch)),
        torch.from_numpy(batch.propensity).to(dtype),
        gain,
        weight,
        terms.clip,
    )
    zero = torch.zeros((), dtype=dtype)
    direct, divergence, lack, error = zero, zero, zero, zero
    target = torch.stack([reward, gain], dim=1)
    for head, view in views.items():
        share = weight[torch.from_numpy(view.batch.decision)]
        features = torch.from_numpy(view.batch.features).to(dtype)
        pi = view.log_pi.exp()
        with torch.no_grad():
            foretold = model.critics(params, head, features)[..., 1]
            pessimistic = foretold.mean(dim=0) - terms.pessimism * foretold.std(dim=0)
        direct = direct + (share * (pi * pessimistic).sum(dim=1)).sum()
        divergence = divergence + (share * _divergence(view, pi)).sum()
        lack = lack + (share * _lack(view, pi, terms.entropy_floor)).sum()
        error = error + _error(params, head, view, batch, features, target, share)
    total = (
        -terms.importance * objective
        - terms.direct * direct
        + terms.kl * divergence
        + terms.entropy * lack
        + terms.critic * error
    )
    parts = {
        "objective": objective,
        "direct": direct,
        "kl": divergence,
        "lack": lack,
        "critic": error,
        "loss": total,
    }
    return total, {name: float(value.detach()) for name, value in parts.items()}


def _divergence(view: HeadView, pi: Tensor) -> Tensor:
    mask = torch.from_numpy(view.batch.mask)
    prior = torch.softmax(
        torch.from_numpy(view.batch.log_prior).to(pi.dtype).masked_fill(~mask, -1e9), dim=1
    )
    mix = 0.5 * prior + 0.5 * mask / mask.sum(dim=1, keepdim=True)
    gap = view.log_pi - torch.log(torch.clamp(mix, min=1e-9))
    return torch.where(mask, pi * gap, torch.zeros_like(pi)).sum(dim=1)


def _lack(view: HeadView, pi: Tensor, floor: float) -> Tensor:
    mask = torch.from_numpy(view.batch.mask)
    entropy = -torch.where(mask, pi * view.log_pi, torch.zeros_like(pi)).sum(dim=1)
    return torch.relu(floor * torch.log(mask.sum(dim=1).to(pi.dtype)) - entropy)


def _error(
    params: Parameters,
    head: int,
    view: HeadView,
    batch: Batch,
    features: Tensor,
    target: Tensor,
    share: Tensor,
) -> Tensor:
    rows = torch.arange(len(view.batch.index))
    drawn = features[rows, torch.from_numpy(view.batch.index)]
    fold = torch.from_numpy(batch.fold[view.batch.decision])
    wanted = target[torch.from_numpy(view.batch.decision)]
    total = torch.zeros((), dtype=features.dtype)
    for member in range(MEMBERS):
        gap = (model.critic(params, member, head, drawn) - wanted).square()
        gap = gap[:, 0] + 0.25 * gap[:, 1]
        total = total + (share * gap * (fold != member)).sum()
    return total / (MEMBERS - 1)
