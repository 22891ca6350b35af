"""Variants of the block: how branches read from and write to the stream.

B batch, T tokens, D width.
"""

import torch
from torch import Tensor, nn

from nightlab.evals.tasks.byte_lm.program import (
    Attention,
    FeedForward,
    Norm,
    Position,
    Recipe,
    Shift,
)


class PostNorm(nn.Module):
    """Post-norm: the stream is normalised after each branch is added.

    Why: Later layers cannot be drowned by earlier ones; three layers need no clean path.
    From: Vaswani et al. 2017, arXiv 1706.03762, section 3.1
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.shift = Shift(recipe)
        self.attention = Attention(recipe, layer)
        self.attention_norm = Norm(recipe.width)
        self.feed_forward = FeedForward(recipe)
        self.feed_forward_norm = Norm(recipe.width)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        seen_BTD = self.shift(x_BTD)
        x_BTD = self.attention_norm(x_BTD + self.attention(seen_BTD, position, shared))
        return self.feed_forward_norm(x_BTD + self.feed_forward(x_BTD))


class Sandwich(nn.Module):
    """Each branch is normalised on its way in and on its way out.

    Why: A branch's size is set by a gain, not by its weights, which steadies high rates.
    From: Ding et al. 2021, arXiv 2105.13290; Gemma Team 2024, arXiv 2408.00118
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.attention_norm = Norm(recipe.width)
        self.shift = Shift(recipe)
        self.attention = Attention(recipe, layer)
        self.attention_out_norm = Norm(recipe.width)
        self.feed_forward_norm = Norm(recipe.width)
        self.feed_forward = FeedForward(recipe)
        self.feed_forward_out_norm = Norm(recipe.width)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        seen_BTD = self.shift(self.attention_norm(x_BTD))
        x_BTD = x_BTD + self.attention_out_norm(self.attention(seen_BTD, position, shared))
        hidden_BTD = self.feed_forward(self.feed_forward_norm(x_BTD))
        return x_BTD + self.feed_forward_out_norm(hidden_BTD)


class Parallel(nn.Module):
    """Attention and feed-forward read the same normalised stream side by side.

    Why: One norm fewer and shorter paths, at little loss.
    From: Wang & Komatsuzaki 2021 (GPT-J); Chowdhery et al. 2022, arXiv 2204.02311
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.norm = Norm(recipe.width)
        self.shift = Shift(recipe)
        self.attention = Attention(recipe, layer)
        self.feed_forward = FeedForward(recipe)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        seen_BTD = self.shift(self.norm(x_BTD))
        return x_BTD + self.attention(seen_BTD, position, shared) + self.feed_forward(seen_BTD)


class LayerScale(nn.Module):
    """Pre-norm, with a learned gain per channel on each branch that starts at a half.

    Why: Branches that start small let the stream carry the bytes through first.
    From: Touvron et al. 2021, arXiv 2103.17239, eq. 4
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.attention_norm = Norm(recipe.width)
        self.shift = Shift(recipe)
        self.attention = Attention(recipe, layer)
        self.attention_gain = nn.Parameter(torch.full((recipe.width,), 0.5))
        self.feed_forward_norm = Norm(recipe.width)
        self.feed_forward = FeedForward(recipe)
        self.feed_forward_gain = nn.Parameter(torch.full((recipe.width,), 0.5))

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        seen_BTD = self.shift(self.attention_norm(x_BTD))
        x_BTD = x_BTD + self.attention_gain * self.attention(seen_BTD, position, shared)
        return x_BTD + self.feed_forward_gain * self.feed_forward(self.feed_forward_norm(x_BTD))


class Rezero(nn.Module):
    """Pre-norm, with one learned gain per branch that starts at zero.

    Why: The network starts as the identity and lets each branch in when it helps.
    From: Bachlechner et al. 2020, arXiv 2003.04887, eq. 1
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.attention_norm = Norm(recipe.width)
        self.shift = Shift(recipe)
        self.attention = Attention(recipe, layer)
        self.attention_gain = nn.Parameter(torch.zeros(1))
        self.feed_forward_norm = Norm(recipe.width)
        self.feed_forward = FeedForward(recipe)
        self.feed_forward_gain = nn.Parameter(torch.zeros(1))

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        seen_BTD = self.shift(self.attention_norm(x_BTD))
        x_BTD = x_BTD + self.attention_gain * self.attention(seen_BTD, position, shared)
        return x_BTD + self.feed_forward_gain * self.feed_forward(self.feed_forward_norm(x_BTD))


class DepthScaled(nn.Module):
    """Pre-norm, with each branch divided by the root of the number of branches.

    Why: The stream keeps its size whatever the depth.
    From: Yang et al. 2023, arXiv 2310.02244 (depth-muP)
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.scale = (2 * recipe.depth) ** -0.5
        self.attention_norm = Norm(recipe.width)
        self.shift = Shift(recipe)
        self.attention = Attention(recipe, layer)
        self.feed_forward_norm = Norm(recipe.width)
        self.feed_forward = FeedForward(recipe)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        seen_BTD = self.shift(self.attention_norm(x_BTD))
        x_BTD = x_BTD + self.scale * self.attention(seen_BTD, position, shared)
        return x_BTD + self.scale * self.feed_forward(self.feed_forward_norm(x_BTD))


class InputMix(nn.Module):
    """Pre-norm; each block first mixes the stream with the model's input, in learned shares.

    Why: What the byte was is worth having at every depth.
    From: Jordan et al. 2024 (modded-nanoGPT)
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.stream_share = nn.Parameter(torch.ones(recipe.width))
        self.input_share = nn.Parameter(torch.zeros(recipe.width))
        self.attention_norm = Norm(recipe.width)
        self.shift = Shift(recipe)
        self.attention = Attention(recipe, layer)
        self.feed_forward_norm = Norm(recipe.width)
        self.feed_forward = FeedForward(recipe)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        input_BTD = shared.setdefault("input", x_BTD)
        x_BTD = self.stream_share * x_BTD + self.input_share * input_BTD
        seen_BTD = self.shift(self.attention_norm(x_BTD))
        x_BTD = x_BTD + self.attention(seen_BTD, position, shared)
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD))


class ShiftTwice(nn.Module):
    """Pre-norm, with a shift before the feed-forward as well.

    Why: If a look at the predecessor helps attention, it helps the feed-forward too.
    From: Peng et al. 2023, arXiv 2305.13048 (RWKV channel mixing)
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.attention_norm = Norm(recipe.width)
        self.shift = Shift(recipe)
        self.attention = Attention(recipe, layer)
        self.feed_forward_norm = Norm(recipe.width)
        self.feed_forward_shift = Shift(recipe)
        self.feed_forward = FeedForward(recipe)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        seen_BTD = self.shift(self.attention_norm(x_BTD))
        x_BTD = x_BTD + self.attention(seen_BTD, position, shared)
        seen_BTD = self.feed_forward_shift(self.feed_forward_norm(x_BTD))
        return x_BTD + self.feed_forward(seen_BTD)
