"""Variants of the optimizer. The trainer scales every group's rate by the schedule.

Where an optimizer keeps other weights for training than for use, the trainer calls its ``finish``
before the weights are saved.
"""

from typing import Any

import torch
from torch import Tensor, nn

from nightlab.evals.tasks.byte_lm.program import Recipe


def _decay_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Matrices decay, vectors do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class _Muon(torch.optim.AdamW):
    """AdamW, except that matrices of one shape in a group marked ``muon`` move orthogonally."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if group["muon"]:
                self._turn(group)
        return super().step(closure)

    def _turn(self, group: dict[str, Any]) -> None:
        """Five Newton-Schulz iterations bring the momentum's singular values near one."""
        moved = [p for p in group["params"] if p.grad is not None]
        gradient_NRC = torch.stack([p.grad for p in moved])
        if "momentum" not in group:
            group["momentum"] = torch.zeros_like(gradient_NRC)
        group["momentum"].lerp_(gradient_NRC, 0.05)
        x_NRC = torch.lerp(gradient_NRC, group["momentum"], 0.95)
        rows, columns = x_NRC.shape[1:]
        x_NRC = x_NRC.mT if rows > columns else x_NRC
        x_NRC = x_NRC / (x_NRC.norm(dim=(1, 2), keepdim=True) + 1e-7)
        for _ in range(5):
            gram_NRR = x_NRC @ x_NRC.mT
            x_NRC = 3.4445 * x_NRC + (2.0315 * gram_NRR @ gram_NRR - 4.7750 * gram_NRR) @ x_NRC
        x_NRC = x_NRC.mT if rows > columns else x_NRC
        rate = group["lr"] * max(1.0, rows / columns) ** 0.5
        for p, step in zip(moved, x_NRC, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(rate * step)
            p.grad = None


def muon(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Muon on the blocks' matrices, AdamW at twice the recipe's rate on everything else.

    Why: A step of equal size in every direction of a matrix learns rare directions as fast.
    From: Jordan et al. 2024 (Muon); Liu et al. 2025, arXiv 2502.16982
    """
    shapes: dict[torch.Size | None, list[Tensor]] = {}
    for name, p in model.named_parameters():
        inside = p.ndim == 2 and min(p.shape) > 4 and name.startswith("blocks.")
        shapes.setdefault(p.shape if inside else None, []).append(p)
    groups = [
        {"params": same, "muon": True, "lr": 6 * recipe.learning_rate}
        if shape
        else {"params": same, "muon": False, "lr": 2 * recipe.learning_rate, "weight_decay": 0.0}
        for shape, same in shapes.items()
    ]
    betas = (0.9, recipe.beta2)
    return _Muon(groups, lr=recipe.learning_rate, betas=betas, weight_decay=recipe.weight_decay)


class _Lion(torch.optim.Optimizer):
    """The sign of a mix of gradient and momentum, as a step of one size for every weight."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * torch.lerp(p.grad, momentum, 0.9).sign())
                momentum.lerp_(p.grad, 1 - group["beta2"])


def lion(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Lion at two thirds of the recipe's rate; matrices decay, vectors do not.

    Why: Sign steps need one moment instead of two and make every weight move.
    From: Chen et al. 2023, arXiv 2302.06675, program 1
    """
    defaults = {"lr": recipe.learning_rate / 1.5, "beta2": recipe.beta2}
    return _Lion(_decay_groups(model, recipe), defaults)


class _ScheduleFree(torch.optim.Optimizer):
    """AdamW whose answer is an average of where it has been, later places counting more."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, beta2: float) -> None:
        super().__init__(groups, {"lr": lr, "beta2": beta2, "weight": 0.0, "count": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["count"] += 1
            weight = (group["lr"] * group["count"]) ** 2
            group["weight"] += weight
            share = weight / max(group["weight"], 1e-20)
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group, share)

    def _move(self, p: Tensor, gradient: Tensor, group: dict[str, Any], share: float) -> None:
        """Step the base point, average it, and put the weights nine tenths of the way there."""
        state = self.state[p]
        if not state:
            state.update(base=p.clone(), average=p.clone(), second=torch.zeros_like(p))
        state["second"].lerp_(gradient.square(), 1 - group["beta2"])
        second = state["second"] / (1 - group["beta2"] ** group["count"])
        step = gradient / (second.sqrt() + 1e-8) + group["weight_decay"] * p
        state["base"].sub_(group["lr"] * step)
        state["average"].lerp_(state["base"], share)
        p.copy_(torch.lerp(state["base"], state["average"], 0.9))

    @torch.no_grad()
    def finish(self) -> None:
        """Leave the average in the weights."""
        for p, state in self.state.items():
            p.copy_(state["average"])


def schedule_free(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Schedule-free AdamW; the schedule still scales its rate.

    Why: An average of the path settles without the rate having to fall.
    From: Defazio et al. 2024, arXiv 2405.15682, algorithm 1
    """
    return _ScheduleFree(_decay_groups(model, recipe), recipe.learning_rate, recipe.beta2)


def nadam(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam with Nesterov momentum; matrices decay, vectors do not.

    Why: Looking ahead along the momentum corrects a step before it is made.
    From: Dozat 2016
    """
    return torch.optim.NAdam(
        _decay_groups(model, recipe),
        lr=recipe.learning_rate,
        betas=(0.9, recipe.beta2),
        decoupled_weight_decay=True,
    )


def fused_adamw(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW in one call for all weights; matrices decay, vectors do not.

    Why: The same steps in less time leave time for more of them.
    From: PyTorch's fused AdamW
    """
    return torch.optim.AdamW(
        _decay_groups(model, recipe),
        lr=recipe.learning_rate,
        betas=(0.9, recipe.beta2),
        fused=True,
    )


class _Averaged(torch.optim.AdamW):
    """AdamW whose answer is a moving average of its latest weights."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.count = getattr(self, "count", 0) + 1
        keep = min(0.97, self.count / (self.count + 10))
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p].setdefault("average", p.clone()).lerp_(p, 1 - keep)
        return loss

    @torch.no_grad()
    def finish(self) -> None:
        """Leave the average in the weights."""
        for p, state in self.state.items():
            p.copy_(state["average"])


def averaged(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW whose last steps are averaged; matrices decay, vectors do not.

    Why: An average of the last steps is nearer the valley's floor than any of them.
    From: Polyak & Juditsky 1992; Izmailov et al. 2018, arXiv 1803.05407
    """
    betas = (0.9, recipe.beta2)
    return _Averaged(_decay_groups(model, recipe), lr=recipe.learning_rate, betas=betas)


class _Cautious(torch.optim.Optimizer):
    """AdamW that leaves out the part of its step that goes against the latest gradient."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group)

    def _move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        state, count = self.state[p], group["count"]
        if not state:
            state.update(first=torch.zeros_like(p), second=torch.zeros_like(p))
        state["first"].lerp_(gradient, 1 - beta1)
        state["second"].lerp_(gradient.square(), 1 - beta2)
        second = state["second"] / (1 - beta2**count)
        step = state["first"] / (1 - beta1**count) / (second.sqrt() + 1e-8)
        agrees = (step * gradient > 0).float()
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.sub_(group["lr"] * step * agrees / agrees.mean().clamp(min=0.1))


def cautious(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Cautious AdamW; matrices decay, vectors do not.

    Why: Momentum that points uphill for a weight right now only does harm.
    From: Liang et al. 2024, arXiv 2411.16085, algorithm 1
    """
    defaults = {"lr": recipe.learning_rate, "betas": (0.9, recipe.beta2)}
    return _Cautious(_decay_groups(model, recipe), defaults)


def split_rates(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW with the blocks' matrices at the recipe's rate, all else at three times that.

    Why: Tables and gains are read sparsely or by element, and can move faster than matrices.
    From: Yang et al. 2022, arXiv 2203.03466 (muP, table 8)
    """
    matrices, rest = list[Tensor](), list[Tensor]()
    for name, p in model.named_parameters():
        (matrices if p.ndim >= 2 and name.startswith("blocks.") else rest).append(p)
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": rest, "weight_decay": 0.0, "lr": 3 * recipe.learning_rate},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2))
