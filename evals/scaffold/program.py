"""What the lab edits: a small residual network on points, made of named top-level parts.

The lab's catalogue knows ``Recipe``, ``Norm``, ``make_optimizer`` and ``schedule`` by their names
and turns the recipe's dials. Axes: N rows, D width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUTS, CLASSES = 2, 3


@dataclass(frozen=True)
class Recipe:
    """The dials."""

    depth: int = 2
    width: int = 32
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    beta2: float = 0.95
    warmup: float = 0.05


class Norm(nn.Module):
    """Layer norm with gain and bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.norm(x_ND)


class Layer(nn.Module):
    """Adds two linear maps with a GELU between to a normalised stream."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.norm = Norm(recipe.width)
        self.up = nn.Linear(recipe.width, 2 * recipe.width)
        self.down = nn.Linear(2 * recipe.width, recipe.width)

    def forward(self, x_ND: Tensor) -> Tensor:
        return x_ND + self.down(F.gelu(self.up(self.norm(x_ND))))


class Model(nn.Module):
    """Points in, logits of their classes out."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.embed = nn.Linear(INPUTS, recipe.width)
        self.layers = nn.ModuleList(Layer(recipe) for _ in range(recipe.depth))
        self.norm = Norm(recipe.width)
        self.head = nn.Linear(recipe.width, CLASSES)

    def forward(self, x_ND: Tensor) -> Tensor:
        x_ND = self.embed(x_ND)
        for layer in self.layers:
            x_ND = layer(x_ND)
        return self.head(self.norm(x_ND))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; matrices decay, vectors do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2))


def schedule(progress: float, recipe: Recipe) -> float:
    """Warm-up, then a cosine down to a tenth; ``progress`` is the fraction of the budget spent."""
    if progress < recipe.warmup:
        return progress / recipe.warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
