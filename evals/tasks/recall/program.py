"""A small decoder that looks links up in long contexts, made of named top-level parts.

The frozen trainer builds ``Model(Recipe())`` and trains it on rows of up to ``recipe.context``
tokens; it is scored on longer ones. ``init_cache``, ``prefill`` and ``step`` are the optional
decode contract: with them a program is scored on its decode path, after ``Eviction`` has dropped
what it thinks no question will need. Parts that keep ``cached = True`` serve both paths.
Axes: B batch, H heads, T tokens, D width, d width of a head.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nightlab.kernels import kv

VOCABULARY = 100


@dataclass(frozen=True)
class Recipe:
    """The dials."""

    depth: int = 2
    width: int = 64
    heads: int = 4
    hidden_ratio: float = 2.0
    context: int = 64
    batch: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    beta2: float = 0.98
    clip: float = 1.0
    warmup: float = 0.05


class Norm(nn.Module):
    """Root-mean-square norm with a gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.norm(x_BTD)


class Position(nn.Module):
    """Rotary positions on a quarter of each head; the rest matches content at any distance."""

    cached = True

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.pairs = max(1, recipe.width // recipe.heads // 8)
        self.start = 0

    def embed(self, x_BTD: Tensor) -> Tensor:
        return x_BTD

    def rotate(self, x_BHTD: Tensor) -> Tensor:
        places_T = torch.arange(x_BHTD.shape[2], device=x_BHTD.device) + self.start
        return self.turned(x_BHTD, places_T)

    def turned(self, x_BHTD: Tensor, places_T: Tensor) -> Tensor:
        rate = 100.0 ** -(torch.arange(self.pairs, device=x_BHTD.device) / self.pairs)
        angle_Td = places_T[:, None] * rate
        cos, sin = angle_Td.cos().to(x_BHTD.dtype), angle_Td.sin().to(x_BHTD.dtype)
        a, b = x_BHTD[..., : self.pairs], x_BHTD[..., self.pairs : 2 * self.pairs]
        kept = x_BHTD[..., 2 * self.pairs :]
        return torch.cat((a * cos - b * sin, b * cos + a * sin, kept), -1)

    def bias(self, length: int) -> Tensor | None:
        return None


class Embedding(nn.Module):
    """One vector per token."""

    cached = True

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


class Scores(nn.Module):
    """How much each token takes from which predecessor: causal softmax."""

    cached = True

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()

    def forward(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        bias_HTT: Tensor | None,
        shared: dict[str, Any],
    ) -> Tensor:
        if bias_HTT is None:
            return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        length = q_BHTD.shape[2]
        future = torch.ones(length, length, dtype=torch.bool, device=q_BHTD.device).triu(1)
        mask_HTT = bias_HTT.masked_fill(future, -math.inf)
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=mask_HTT)


class Attention(nn.Module):
    """Multi-head attention whose keys also carry some of the token before, as much as each channel
    learns: one layer then finds what followed a symbol."""

    cached = True

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads, self.layer = recipe.heads, layer
        self.qkv = nn.Linear(recipe.width, 3 * recipe.width, bias=False)
        self.smear = nn.Parameter(torch.zeros(recipe.width))
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Any]) -> Tensor:
        b, t, d = x_BTD.shape
        q, k, v = self.qkv(x_BTD).chunk(3, -1)
        cache = shared.get("cache")
        last = getattr(cache, "last", None)  # a probe of a cache remembers no keys
        before = last(self.layer, k) if last else k.new_zeros(b, 1, d)
        k = torch.lerp(k, torch.cat((before, k[:, :-1]), 1), self.smear.sigmoid())
        q, k, v = (x.view(b, t, self.heads, -1).transpose(1, 2) for x in (q, k, v))
        q, k = position.rotate(q), position.rotate(k)
        if cache is None:
            y_BHTD = self.scores(q, k, v, position.bias(t), shared)
        else:
            y_BHTD = cache.attend(self.layer, q, k, v)
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

    cached = True

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.attention_norm = Norm(recipe.width)
        self.attention = Attention(recipe, layer)
        self.feed_forward_norm = Norm(recipe.width)
        self.feed_forward = FeedForward(recipe)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Any]) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), position, shared)
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD))


def initialise(model: nn.Module, recipe: Recipe) -> None:
    """Normal weights whose deviation is one over the root of what each row reads."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)


class Cache(kv.KVCache):
    """Keys and values, and each layer's last key before it was mixed with its neighbour's."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers)
        self._last: dict[int, Tensor] = {}

    def last(self, layer: int, k_BTD: Tensor) -> Tensor:
        """The key before ``k_BTD``, whose last one is remembered in turn: (B, 1, D)."""
        before = self._last.get(layer)
        self._last[layer] = k_BTD[:, -1:].clone()
        return torch.zeros_like(k_BTD[:, :1]) if before is None else before

    def fork(self) -> "Cache":
        """A second cache that shares this one's rows."""
        other = super().fork()
        other._last = dict(self._last)
        return other


class Eviction:
    """What stays of a context once it has been read, before any question: all of it."""

    approximate = False

    def __init__(self, recipe: Recipe, model: Any) -> None:
        pass

    def learn(self, model: Any, tokens_BT: Tensor) -> Tensor | float:
        """A loss in nats for weights of its own, from rows with their questions."""
        return 0.0

    def watch(self, tokens: int) -> int:
        """How many of a context's last queries it wants to see."""
        return 0

    def __call__(self, model: Any, tokens_BT: Tensor, logits_BV: Tensor, cache: Any) -> None:
        pass


class Model(nn.Module):
    """Tokens in, logits of the next token out."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.embedding = Embedding(recipe)
        self.position = Position(recipe)
        self.blocks = nn.ModuleList(Block(recipe, layer) for layer in range(recipe.depth))
        self.norm = Norm(recipe.width)
        self.head = Head(recipe, self.embedding)
        self.eviction = Eviction(recipe, self)
        self.approximate = self.eviction.approximate
        initialise(self, recipe)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.position.embed(self.embedding(tokens_BT))
        shared = {"tokens": tokens_BT}
        if self.training:
            self.seen_BT = tokens_BT
        for block in self.blocks:
            x_BTD = block(x_BTD, self.position, shared)
        return self.head(self.norm(x_BTD))

    def auxiliary_loss(self) -> Tensor | float:
        """What the eviction learns from the last rows; no other weight gets a gradient of it."""
        return self.eviction.learn(self, self.seen_BT)

    @property
    def decodes(self) -> bool:
        """Whether every part that looks at other tokens can work from a cache."""
        mixing = (Embedding, Position, Block, Attention, Scores)
        return all(getattr(part, "cached", False) for part in mixing)

    def init_cache(self, batch: int) -> Cache:
        """An empty cache."""
        return Cache(len(self.blocks))

    def prefill(self, tokens_BT: Tensor, cache: Cache) -> Tensor:
        """Read a context, or more of it; the logits (B, V) that follow."""
        first = cache.position == 0
        if first:
            cache.watch = self.eviction.watch(tokens_BT.shape[1])
        logits_BV = self.logits(self.run(self.embed(tokens_BT), cache)[:, -1])
        if first:
            self.eviction(self, tokens_BT, logits_BV, cache)
            cache.release_queries()
        return logits_BV

    def step(self, tokens_B: Tensor, cache: Cache) -> Tensor:
        """Read one token of each row; the logits (B, V) that follow."""
        return self.prefill(tokens_B[:, None], cache)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        return self.position.embed(self.embedding(tokens_BT))

    def run(self, x_BTD: Tensor, cache: Any) -> Tensor:
        """All blocks on embeddings that follow what the cache has seen."""
        self.position.start = cache.position
        try:
            for block in self.blocks:
                x_BTD = block(x_BTD, self.position, {"cache": cache})
        finally:
            self.position.start = 0
        return x_BTD

    def logits(self, x_BTD: Tensor) -> Tensor:
        return self.head(self.norm(x_BTD))

    def rotate(self, x_BHTD: Tensor, places_T: Tensor) -> Tensor:
        return self.position.turned(x_BHTD, places_T)

    @property
    def shape(self) -> kv.DecoderShape:
        """The numbers an eviction policy must know."""
        r = self.recipe
        groups = getattr(self.blocks[0].attention, "groups", r.heads)
        width = r.width // r.heads
        return kv.DecoderShape(
            layers=r.depth, query_heads=r.heads, kv_heads=groups, head_dim=width, width=r.width
        )

    def linears(self) -> Sequence[Mapping[str, nn.Linear]]:
        """Per layer, its linear maps by role: those of attention, then others by their names."""
        roles = {"attention.qkv": "qkv", "attention.query": "q", "attention.out": "o"}
        return [
            {
                roles.get(name, name.replace(".", "_")): part
                for name, part in block.named_modules()
                if isinstance(part, nn.Linear)
            }
            for block in self.blocks
        ]


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
