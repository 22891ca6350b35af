"""Variants of the feed-forward part: B batch, T tokens, D width, N rows (B times T)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nightlab.evals.tasks.byte_lm.program import Recipe as Baseline


@dataclass(frozen=True)
class Recipe(Baseline):
    """Dials that only these variants read."""

    experts: int = 4


class Relu(nn.Module):
    """Two linear maps with a rectifier between.

    Why: The cheapest gate there is; time saved is steps gained.
    From: Vaswani et al. 2017, arXiv 1706.03762, eq. 2
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        hidden = int(recipe.hidden_ratio * recipe.width)
        self.up = nn.Linear(recipe.width, hidden, bias=False)
        self.down = nn.Linear(hidden, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x_BTD)))


class ReluSquared(nn.Module):
    """Two linear maps with a squared rectifier between.

    Why: A square lets units multiply features at no cost, and keeps the rectifier's sparsity.
    From: So et al. 2021, arXiv 2109.08668 (Primer)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        hidden = int(recipe.hidden_ratio * recipe.width)
        self.up = nn.Linear(recipe.width, hidden, bias=False)
        self.down = nn.Linear(hidden, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x_BTD)).square())


class LeakySquared(nn.Module):
    """A squared leaky rectifier, so that no unit is ever without a gradient.

    Why: In a run of a few hundred steps a dead unit never comes back.
    From: a variation on So et al. 2021, arXiv 2109.08668
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        hidden = int(recipe.hidden_ratio * recipe.width)
        self.up = nn.Linear(recipe.width, hidden, bias=False)
        self.down = nn.Linear(hidden, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.leaky_relu(self.up(x_BTD), 0.5).square())


class Silu(nn.Module):
    """Two linear maps with a sigmoid-weighted unit between.

    Why: Smooth like GELU and cheaper to compute.
    From: Elfwing et al. 2017, arXiv 1702.03118
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        hidden = int(recipe.hidden_ratio * recipe.width)
        self.up = nn.Linear(recipe.width, hidden, bias=False)
        self.down = nn.Linear(hidden, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.silu(self.up(x_BTD)))


class Swiglu(nn.Module):
    """A linear map gated by the SiLU of another, at the parameters of the ungated layer.

    Why: A product of two maps computes interactions that a single gate cannot.
    From: Shazeer 2020, arXiv 2002.05202, eq. 5
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        hidden = int(recipe.hidden_ratio * recipe.width * 2 / 3)
        self.up = nn.Linear(recipe.width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate, value = self.up(x_BTD).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class Geglu(nn.Module):
    """A linear map gated by the GELU of another, at the parameters of the ungated layer.

    Why: As SwiGLU, with the baseline's own gate.
    From: Shazeer 2020, arXiv 2002.05202, eq. 5
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        hidden = int(recipe.hidden_ratio * recipe.width * 2 / 3)
        self.up = nn.Linear(recipe.width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate, value = self.up(x_BTD).chunk(2, -1)
        return self.down(F.gelu(gate) * value)


class Reglu(nn.Module):
    """A linear map gated by the rectifier of another, at the parameters of the ungated layer.

    Why: Gating's interactions at the rectifier's price.
    From: Shazeer 2020, arXiv 2002.05202, eq. 5
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        hidden = int(recipe.hidden_ratio * recipe.width * 2 / 3)
        self.up = nn.Linear(recipe.width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate, value = self.up(x_BTD).chunk(2, -1)
        return self.down(F.relu(gate) * value)


class Experts(nn.Module):
    """Each token goes through one of several layers; a bias on the choice balances them.

    Why: More parameters at the same arithmetic per token, if the experts share the work evenly.
    From: Fedus et al. 2021, arXiv 2101.03961; balance by Wang et al. 2024, arXiv 2408.15664
    """

    balance: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        hidden = int(recipe.hidden_ratio * recipe.width)
        self.router = nn.Linear(recipe.width, recipe.experts, bias=False)
        self.up = nn.ModuleList(
            nn.Linear(recipe.width, hidden, bias=False) for _ in range(recipe.experts)
        )
        self.down = nn.ModuleList(
            nn.Linear(hidden, recipe.width, bias=False) for _ in range(recipe.experts)
        )
        self.register_buffer("balance", torch.zeros(recipe.experts))

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_ND = x_BTD.flatten(0, -2)
        score_NE = torch.sigmoid(self.router(x_ND))
        chosen_N = (score_NE + self.balance).argmax(-1)
        gate_N1 = 2 * score_NE.gather(1, chosen_N[:, None])
        y_ND = torch.zeros_like(x_ND)
        for expert, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            rows = (chosen_N == expert).nonzero()[:, 0]
            y_ND = y_ND.index_copy(0, rows, down(F.gelu(up(x_ND[rows]))))
        if self.training:
            self._rebalance(chosen_N)
        return (gate_N1 * y_ND).view_as(x_BTD)

    @torch.no_grad()
    def _rebalance(self, chosen_N: Tensor) -> None:
        """Favour the experts that got less than their share of a training batch."""
        count_E = torch.bincount(chosen_N, minlength=len(self.balance))
        self.balance += 0.01 * torch.sign(count_E.float().mean() - count_E)
