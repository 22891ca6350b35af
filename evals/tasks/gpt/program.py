"""A decoder-only transformer over byte-pair tokens, made of named top-level parts.

The frozen trainer builds ``Model(Recipe())``, asks ``make_optimizer`` for its optimizer and
multiplies every learning rate by ``schedule(progress)``; everything in this file may be edited.
The dials are for a GPU; ``task.toml`` has those for a machine without one.
Axes: B batch, H heads, T tokens, D width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 4096


@dataclass(frozen=True)
class Recipe:
    """The dials."""

    depth: int = 8
    width: int = 512
    heads: int = 8
    hidden_ratio: float = 4.0
    context: int = 1024
    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    beta2: float = 0.95
    clip: float = 1.0
    warmup: float = 0.05


class Norm(nn.Module):
    """Layer norm with gain and bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.norm(x_BTD)


class Position(nn.Module):
    """Learned absolute positions, added to the embeddings."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.table = nn.Embedding(recipe.context, recipe.width)

    def embed(self, x_BTD: Tensor) -> Tensor:
        return x_BTD + self.table.weight[: x_BTD.shape[1]]

    def rotate(self, x_BHTD: Tensor) -> Tensor:
        return x_BHTD

    def bias(self, length: int) -> Tensor | None:
        """Added to the attention logits: (H, T, T), or None."""
        return None


class Embedding(nn.Module):
    """One vector per token."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, recipe.width)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.table(tokens_BT)


class Head(nn.Module):
    """An untied linear read-out."""

    def __init__(self, recipe: Recipe, embedding: Embedding) -> None:
        super().__init__()
        self.out = nn.Linear(recipe.width, VOCABULARY, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.out(x_BTD)


class Shift(nn.Module):
    """What each token sees of its predecessors before attention: nothing."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD


class Scores(nn.Module):
    """How much each token takes from which predecessor: causal softmax."""

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()

    def forward(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        bias_HTT: Tensor | None,
        shared: dict[str, Tensor],
    ) -> Tensor:
        if bias_HTT is None:
            return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        length = q_BHTD.shape[2]
        future = torch.ones(length, length, dtype=torch.bool, device=q_BHTD.device).triu(1)
        mask_HTT = bias_HTT.masked_fill(future, -math.inf)
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=mask_HTT)


class Attention(nn.Module):
    """Multi-head attention. ``shared`` carries the tokens, and what layers tell later layers."""

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.qkv = nn.Linear(recipe.width, 3 * recipe.width, bias=False)
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(b, t, 3, self.heads, d // self.heads).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k = position.rotate(q), position.rotate(k)
        y_BHTD = self.scores(q, k, v, position.bias(t), shared)
        return self.out(y_BHTD.transpose(1, 2).reshape(b, t, d))


class FeedForward(nn.Module):
    """Two linear maps with a GELU between."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        hidden = int(recipe.hidden_ratio * recipe.width)
        self.up = nn.Linear(recipe.width, hidden, bias=False)
        self.down = nn.Linear(hidden, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BTD)))


class Block(nn.Module):
    """Pre-norm: each branch reads a normalised stream and adds to the raw one."""

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.attention_norm = Norm(recipe.width)
        self.shift = Shift(recipe)
        self.attention = Attention(recipe, layer)
        self.feed_forward_norm = Norm(recipe.width)
        self.feed_forward = FeedForward(recipe)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        seen_BTD = self.shift(self.attention_norm(x_BTD))
        x_BTD = x_BTD + self.attention(seen_BTD, position, shared)
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD))


def initialise(model: nn.Module, recipe: Recipe) -> None:
    """Normal weights of standard deviation 0.02."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


class Model(nn.Module):
    """Tokens in, logits of the next token out."""

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
        for block in self.blocks:
            x_BTD = block(x_BTD, self.position, shared)
        return self.head(self.norm(x_BTD))


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
