"""Variants of the head: the stream to the next byte's logits. B batch, T tokens, D width."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nightlab.evals.tasks.byte_lm.program import VOCABULARY, Embedding, Recipe


class Tied(nn.Module):
    """The embedding's table read backwards.

    Why: One table learns from both ends, and a small model saves its parameters.
    From: Press & Wolf 2016, arXiv 1608.05859
    """

    def __init__(self, recipe: Recipe, embedding: Embedding) -> None:
        super().__init__()
        self.weight = embedding.table.weight

    def forward(self, x_BTD: Tensor) -> Tensor:
        return F.linear(x_BTD, self.weight)


class Softcap(nn.Module):
    """A linear read-out whose logits a tanh keeps within 15 of zero.

    Why: No logit can run away, so rare bytes keep a gradient.
    From: Gemma Team 2024, arXiv 2408.00118; Jordan et al. 2024 (modded-nanoGPT)
    """

    def __init__(self, recipe: Recipe, embedding: Embedding) -> None:
        super().__init__()
        self.out = nn.Linear(recipe.width, VOCABULARY, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return 15.0 * torch.tanh(self.out(x_BTD) / 15.0)


class Biased(nn.Module):
    """A linear read-out with a bias per byte.

    Why: How often each byte occurs is learned at once, and apart from everything else.
    From: the maximum-entropy unigram model
    """

    def __init__(self, recipe: Recipe, embedding: Embedding) -> None:
        super().__init__()
        self.out = nn.Linear(recipe.width, VOCABULARY, bias=False)
        self.bias = nn.Parameter(torch.zeros(VOCABULARY))

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.out(x_BTD) + self.bias


class TiedSoftcap(nn.Module):
    """The embedding's table read backwards, with a bias and logits kept within 15 of zero.

    Why: Tying, the bias and the bound each help for their own reason.
    From: Press & Wolf 2016, arXiv 1608.05859; Gemma Team 2024, arXiv 2408.00118
    """

    def __init__(self, recipe: Recipe, embedding: Embedding) -> None:
        super().__init__()
        self.weight = embedding.table.weight
        self.bias = nn.Parameter(torch.zeros(VOCABULARY))

    def forward(self, x_BTD: Tensor) -> Tensor:
        return 15.0 * torch.tanh(F.linear(x_BTD, self.weight, self.bias) / 15.0)


class Scaled(nn.Module):
    """A linear read-out times a learned scale that starts at four.

    Why: Logits have to grow a long way from small weights; a scale gets them there sooner.
    From: Loshchilov et al. 2024, arXiv 2410.01131 (nGPT, section 2.1)
    """

    def __init__(self, recipe: Recipe, embedding: Embedding) -> None:
        super().__init__()
        self.out = nn.Linear(recipe.width, VOCABULARY, bias=False)
        self.scale = nn.Parameter(torch.full((1,), 4.0))

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.scale * self.out(x_BTD)
