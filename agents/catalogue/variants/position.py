"""Variants of the position part: B batch, H heads, T tokens, D width."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nightlab.evals.tasks.byte_lm.program import Recipe as Baseline


@dataclass(frozen=True)
class Recipe(Baseline):
    """Dials that only these variants read."""

    rotary_base: float = 10000.0


class Rotary(nn.Module):
    """Rotary positions: queries and keys turn with their place.

    Why: Scores that depend on distance, not on place, transfer between all places at once.
    From: Su et al. 2021, arXiv 2104.09864, eq. 34
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        half = recipe.width // recipe.heads // 2
        speed = recipe.rotary_base ** -(torch.arange(half) / half)
        angle_TD = torch.arange(recipe.context)[:, None] * speed
        self.register_buffer("cos", angle_TD.cos(), persistent=False)
        self.register_buffer("sin", angle_TD.sin(), persistent=False)

    def embed(self, x_BTD: Tensor) -> Tensor:
        return x_BTD

    def rotate(self, x_BHTD: Tensor) -> Tensor:
        cos, sin = self.cos[: x_BHTD.shape[2]], self.sin[: x_BHTD.shape[2]]
        a, b = x_BHTD.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def bias(self, length: int) -> Tensor | None:
        return None


class RotaryPartial(nn.Module):
    """Rotary positions on the first half of each head; the rest matches content alone.

    Why: Some channels should compare content whatever the distance, and half the turning is saved.
    From: Black et al. 2022, arXiv 2204.06745 (GPT-NeoX)
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.turned = max(2, recipe.width // recipe.heads // 4 * 2)
        half = self.turned // 2
        speed = recipe.rotary_base ** -(torch.arange(half) / half)
        angle_TD = torch.arange(recipe.context)[:, None] * speed
        self.register_buffer("cos", angle_TD.cos(), persistent=False)
        self.register_buffer("sin", angle_TD.sin(), persistent=False)

    def embed(self, x_BTD: Tensor) -> Tensor:
        return x_BTD

    def rotate(self, x_BHTD: Tensor) -> Tensor:
        cos, sin = self.cos[: x_BHTD.shape[2]], self.sin[: x_BHTD.shape[2]]
        a, b = x_BHTD[..., : self.turned].chunk(2, -1)
        kept = x_BHTD[..., self.turned :]
        return torch.cat((a * cos - b * sin, b * cos + a * sin, kept), -1)

    def bias(self, length: int) -> Tensor | None:
        return None


class RotaryLearned(nn.Module):
    """Rotary positions, and learned ones added to the embeddings.

    Why: Distance serves attention while the absolute place still marks a window's start.
    From: a combination of Su et al. 2021 and Radford et al. 2018
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.table = nn.Embedding(recipe.context, recipe.width)
        half = recipe.width // recipe.heads // 2
        speed = recipe.rotary_base ** -(torch.arange(half) / half)
        angle_TD = torch.arange(recipe.context)[:, None] * speed
        self.register_buffer("cos", angle_TD.cos(), persistent=False)
        self.register_buffer("sin", angle_TD.sin(), persistent=False)

    def embed(self, x_BTD: Tensor) -> Tensor:
        return x_BTD + self.table.weight[: x_BTD.shape[1]]

    def rotate(self, x_BHTD: Tensor) -> Tensor:
        cos, sin = self.cos[: x_BHTD.shape[2]], self.sin[: x_BHTD.shape[2]]
        a, b = x_BHTD.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def bias(self, length: int) -> Tensor | None:
        return None


class Alibi(nn.Module):
    """A penalty on attention that grows with distance, at a slope of its own per head.

    Why: Near bytes matter most; a fixed slope says so from the first step.
    From: Press et al. 2021, arXiv 2108.12409, section 3
    """

    by_head: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        slope_H = 2.0 ** (-8.0 * torch.arange(1, recipe.heads + 1) / recipe.heads)
        place_T = torch.arange(recipe.context)
        distance_TT = (place_T[:, None] - place_T).clamp(min=0)
        bias_HTT = -slope_H[:, None, None] * distance_TT
        self.register_buffer("by_head", bias_HTT, persistent=False)

    def embed(self, x_BTD: Tensor) -> Tensor:
        return x_BTD

    def rotate(self, x_BHTD: Tensor) -> Tensor:
        return x_BHTD

    def bias(self, length: int) -> Tensor | None:
        return self.by_head[:, :length, :length]


class RelativeBias(nn.Module):
    """A learned attention bias per head and distance.

    Why: The data can say how attention should fall with distance, head by head.
    From: Raffel et al. 2019, arXiv 1910.10683 (T5), with one bucket per distance
    """

    distance: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.by_distance = nn.Parameter(torch.zeros(recipe.heads, recipe.context))
        place_T = torch.arange(recipe.context)
        distance_TT = (place_T[:, None] - place_T).clamp(min=0)
        self.register_buffer("distance", distance_TT, persistent=False)

    def embed(self, x_BTD: Tensor) -> Tensor:
        return x_BTD

    def rotate(self, x_BHTD: Tensor) -> Tensor:
        return x_BHTD

    def bias(self, length: int) -> Tensor | None:
        return self.by_distance[:, self.distance[:length, :length]]


class Sinusoidal(nn.Module):
    """Fixed sines and cosines, added to the embeddings.

    Why: Waves make relative places linear in absolute ones, with nothing to learn.
    From: Vaswani et al. 2017, arXiv 1706.03762, section 3.5
    """

    wave: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        half = recipe.width // 2
        speed = torch.exp(-math.log(10000.0) * torch.arange(half) / half)
        angle_TD = torch.arange(recipe.context)[:, None] * speed
        wave_TD = 0.02 * torch.cat((angle_TD.sin(), angle_TD.cos()), -1)
        self.register_buffer("wave", wave_TD, persistent=False)

    def embed(self, x_BTD: Tensor) -> Tensor:
        return x_BTD + self.wave[: x_BTD.shape[1]]

    def rotate(self, x_BHTD: Tensor) -> Tensor:
        return x_BHTD

    def bias(self, length: int) -> Tensor | None:
        return None


class Nothing(nn.Module):
    """No positions: the causal mask alone tells places apart.

    Why: Causal attention can count; what is not given need not be unlearned.
    From: Haviv et al. 2022, arXiv 2203.16634
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()

    def embed(self, x_BTD: Tensor) -> Tensor:
        return x_BTD

    def rotate(self, x_BHTD: Tensor) -> Tensor:
        return x_BHTD

    def bias(self, length: int) -> Tensor | None:
        return None
