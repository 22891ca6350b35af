"""Variants of the model: how the parts are put together.

B batch, T tokens, D width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nightlab.evals.tasks.byte_lm.program import (
    VOCABULARY,
    Block,
    Embedding,
    Head,
    Norm,
    Position,
    Recipe,
    initialise,
)


class LogitPenalty(nn.Module):
    """A straight stack of blocks, with a small penalty on the size of the logits.

    Why: Logits that keep near normal need less shrinking later.
    From: Chowdhery et al. 2022, arXiv 2204.02311, section 5
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.embedding = Embedding(recipe)
        self.position = Position(recipe)
        self.blocks = nn.ModuleList(Block(recipe, layer) for layer in range(recipe.depth))
        self.norm = Norm(recipe.width)
        self.head = Head(recipe, self.embedding)
        self.penalty = torch.zeros(())
        initialise(self, recipe)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.position.embed(self.embedding(tokens_BT))
        shared = {"tokens": tokens_BT}
        for block in self.blocks:
            x_BTD = block(x_BTD, self.position, shared)
        logits_BTV = self.head(self.norm(x_BTD))
        if self.training:
            self.penalty = 1e-4 * logits_BTV.logsumexp(-1).square().mean()
        return logits_BTV

    def auxiliary_loss(self) -> Tensor:
        return self.penalty


class Looped(nn.Module):
    """The stack of blocks is gone through twice with the same weights.

    Why: Twice the depth at the same parameters; the second pass can use what the first found.
    From: Dehghani et al. 2018, arXiv 1807.03819 (Universal Transformers)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.embedding = Embedding(recipe)
        self.position = Position(recipe)
        self.blocks = nn.ModuleList(Block(recipe, layer) for layer in range(recipe.depth))
        self.norm = Norm(recipe.width)
        self.head = Head(recipe, self.embedding)
        initialise(self, recipe)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.position.embed(self.embedding(tokens_BT))
        shared = {"tokens": tokens_BT}
        for _ in range(2):
            for block in self.blocks:
                x_BTD = block(x_BTD, self.position, shared)
        return self.head(self.norm(x_BTD))


class SharedBlock(nn.Module):
    """One block's weights serve every layer.

    Why: A small budget trains few weights well rather than many badly.
    From: Lan et al. 2019, arXiv 1909.11942 (ALBERT)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.depth = recipe.depth
        self.embedding = Embedding(recipe)
        self.position = Position(recipe)
        self.blocks = nn.ModuleList([Block(recipe, 0)])
        self.norm = Norm(recipe.width)
        self.head = Head(recipe, self.embedding)
        initialise(self, recipe)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.position.embed(self.embedding(tokens_BT))
        shared = {"tokens": tokens_BT}
        for _ in range(self.depth):
            x_BTD = self.blocks[0](x_BTD, self.position, shared)
        return self.head(self.norm(x_BTD))


class LayerMix(nn.Module):
    """The head reads a learned sum of the input and of every block's output.

    Why: What an early layer knows need not be carried through all later ones.
    From: Pagliardini et al. 2024, arXiv 2402.02622 (DenseFormer), at the last layer
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.embedding = Embedding(recipe)
        self.position = Position(recipe)
        self.blocks = nn.ModuleList(Block(recipe, layer) for layer in range(recipe.depth))
        self.norm = Norm(recipe.width)
        self.head = Head(recipe, self.embedding)
        share = torch.zeros(recipe.depth + 1, recipe.width)
        share[-1] = 1.0
        self.share = nn.Parameter(share)
        initialise(self, recipe)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.position.embed(self.embedding(tokens_BT))
        shared = {"tokens": tokens_BT}
        mixed_BTD = self.share[0] * x_BTD
        for layer, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, self.position, shared)
            mixed_BTD = mixed_BTD + self.share[layer + 1] * x_BTD
        return self.head(self.norm(mixed_BTD))


class BigramLogits(nn.Module):
    """A table of byte pairs adds to the logits what the last byte alone says about the next.

    Why: The stack is left with what pairs cannot explain, from the first step on.
    From: Elhage et al. 2021 (the direct path of a transformer is a bigram table)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.embedding = Embedding(recipe)
        self.position = Position(recipe)
        self.blocks = nn.ModuleList(Block(recipe, layer) for layer in range(recipe.depth))
        self.norm = Norm(recipe.width)
        self.head = Head(recipe, self.embedding)
        self.pairs = nn.Embedding(VOCABULARY, VOCABULARY)
        initialise(self, recipe)
        nn.init.zeros_(self.pairs.weight)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.position.embed(self.embedding(tokens_BT))
        shared = {"tokens": tokens_BT}
        for block in self.blocks:
            x_BTD = block(x_BTD, self.position, shared)
        return self.head(self.norm(x_BTD)) + self.pairs(tokens_BT)


class TwoAhead(nn.Module):
    """A second linear map learns to predict the byte after next; only training uses it.

    Why: Looking further ahead makes the stream carry plans, not just the next byte.
    From: Gloeckle et al. 2024, arXiv 2404.19737
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.embedding = Embedding(recipe)
        self.position = Position(recipe)
        self.blocks = nn.ModuleList(Block(recipe, layer) for layer in range(recipe.depth))
        self.norm = Norm(recipe.width)
        self.head = Head(recipe, self.embedding)
        self.ahead = nn.Linear(recipe.width, VOCABULARY, bias=False)
        self.penalty = torch.zeros(())
        initialise(self, recipe)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.position.embed(self.embedding(tokens_BT))
        shared = {"tokens": tokens_BT}
        for block in self.blocks:
            x_BTD = block(x_BTD, self.position, shared)
        x_BTD = self.norm(x_BTD)
        if self.training and tokens_BT.shape[1] > 2:
            logits = self.ahead(x_BTD[:, :-2]).flatten(0, 1)
            self.penalty = 0.2 * F.cross_entropy(logits, tokens_BT[:, 2:].flatten())
        return self.head(x_BTD)

    def auxiliary_loss(self) -> Tensor:
        return self.penalty
