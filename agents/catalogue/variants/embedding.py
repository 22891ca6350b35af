"""Variants of the embedding: bytes to vectors. B batch, T tokens, D width."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nightlab.evals.tasks.byte_lm.program import VOCABULARY, Norm, Recipe


class Scaled(nn.Module):
    """One vector per byte, times the square root of the width.

    Why: Small weights with a large scale learn faster under Adam's equal steps.
    From: Vaswani et al. 2017, arXiv 1706.03762, section 3.4
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.scale = math.sqrt(recipe.width)
        self.table = nn.Embedding(VOCABULARY, recipe.width)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.scale * self.table(tokens_BT)


class Normed(nn.Module):
    """One vector per byte, normalised.

    Why: Every byte enters the stream at the same size, however rare it is.
    From: Le Scao et al. 2022, arXiv 2211.05100 (BLOOM); Jordan et al. 2024 (modded-nanoGPT)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, recipe.width)
        self.norm = Norm(recipe.width)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.norm(self.table(tokens_BT))


class HashedBigram(nn.Module):
    """A vector per byte, plus one per pair of bytes from a hashed table.

    Why: Pairs are the first thing a byte model has to learn; a table knows them at once.
    From: Pagnoni et al. 2024, arXiv 2412.09871 (BLT, hash n-grams)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, recipe.width)
        self.pairs = nn.Embedding(4093, recipe.width)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        before_BT = F.pad(tokens_BT[:, :-1], (1, 0))
        pair_BT = (before_BT * VOCABULARY + tokens_BT) % self.pairs.num_embeddings
        return self.table(tokens_BT) + self.pairs(pair_BT)


class HashedTrigram(nn.Module):
    """A vector per byte, plus one per pair and per triple of bytes from hashed tables.

    Why: As pairs, one byte further: most words and operators of code are known by three bytes.
    From: Pagnoni et al. 2024, arXiv 2412.09871 (BLT, hash n-grams)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, recipe.width)
        self.pairs = nn.Embedding(4093, recipe.width)
        self.triples = nn.Embedding(8191, recipe.width)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        one_BT = F.pad(tokens_BT, (1, 0))[:, :-1]
        two_BT = F.pad(tokens_BT, (2, 0))[:, :-2]
        pair_BT = one_BT * VOCABULARY + tokens_BT
        triple_BT = two_BT * VOCABULARY**2 + pair_BT
        x_BTD = self.table(tokens_BT) + self.pairs(pair_BT % self.pairs.num_embeddings)
        return x_BTD + self.triples(triple_BT % self.triples.num_embeddings)


class Smeared(nn.Module):
    """A vector per byte that lets in some of the byte before, through a gate.

    Why: The stream carries pairs from the start, and every layer can use them.
    From: Jordan et al. 2024 (modded-nanoGPT)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, recipe.width)
        self.before = nn.Embedding(VOCABULARY, recipe.width)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        before_BT = F.pad(tokens_BT[:, :-1], (1, 0))
        x_BTD = self.table(tokens_BT)
        gate_BT1 = torch.sigmoid(8 * x_BTD.mean(-1, keepdim=True))
        return x_BTD + gate_BT1 * self.before(before_BT)
