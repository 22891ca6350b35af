"""The models and the task of :mod:`nightlab.evals.science_index_cache`.

Associative recall of one and of two hops, and an 8-layer decoder that runs under any index pattern.
A two-hop query needs two lookups in different layers, so layers need different keys and sharing
can hurt.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from nightlab.kernels.index_cache import (
    IndexCache,
    IndexPattern,
    IndexSet,
    LightningIndexer,
    sparse_attention,
)

LAYERS, WIDTH, HEADS = 8, 64, 4
PAIRS, FILLERS, QUERIES = 8, 40, 12
SYMBOLS, NOISE = 16, 8
HOP = SYMBOLS + NOISE
"""Token before a query's key: HOP asks for the key's value, HOP + 1 for its value's value."""
FIRST = 2 * PAIRS + FILLERS + 1
"""Position of the first query's key; queries take two tokens each."""
HALFWAY = 2
"""Layer after which dense training also asks for a query's first hop."""
VOCABULARY = SYMBOLS + NOISE + 2
TOKENS = 2 * PAIRS + FILLERS + 2 * QUERIES
TOPK = TOKENS // 16
ALL_F = IndexPattern.all_full(LAYERS)


@dataclass(frozen=True)
class Batch:
    """Token ids [B, T] and, at each query's key, what to say; -100 elsewhere."""

    ids: Tensor
    answers: Tensor
    once: Tensor
    """The value after one hop, whatever was asked."""


def recall(batch: int, rng: torch.Generator) -> Batch:
    """Key-value pairs scattered in noise, then queries of one and of two hops, half each.

    The keys' values are a permutation of the keys, so that every value is a key with a value.
    """
    order = torch.rand(batch, SYMBOLS, generator=rng).argsort(1)[:, :PAIRS]
    turn = torch.arange(PAIRS).roll(-1)
    table = torch.zeros(batch, SYMBOLS, dtype=torch.long).scatter_(1, order, order[:, turn])
    body = torch.randint(SYMBOLS, SYMBOLS + NOISE, (batch, 2 * PAIRS + FILLERS), generator=rng)
    gaps = torch.rand(batch, PAIRS + FILLERS, generator=rng).argsort(1)[:, :PAIRS].sort(1).values
    place = gaps + torch.arange(PAIRS)
    shuffle = torch.rand(batch, PAIRS, generator=rng).argsort(1)
    keys = order.gather(1, shuffle)
    body.scatter_(1, place, keys).scatter_(1, place + 1, table.gather(1, keys))
    asked = order.gather(1, torch.randint(0, PAIRS, (batch, QUERIES), generator=rng))
    hops = torch.randint(0, 2, (batch, QUERIES), generator=rng)
    once = table.gather(1, asked)
    answer = torch.where(hops == 0, once, table.gather(1, once))
    tail = torch.stack((HOP + hops, asked), 2).flatten(1)
    answers, first = torch.full((2, batch, TOKENS), -100)
    answers[:, FIRST::2], first[:, FIRST::2] = answer, once
    return Batch(torch.cat((body, tail), 1), answers, first)


class Layer(nn.Module):
    """Attention over a given index set, then a feed-forward part; with an indexer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.indexer = LightningIndexer(WIDTH, 8, 16, topk=TOPK, rope="none")

    def attend(
        self, x: Tensor, index: IndexSet | None, teach: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Layer output, and the target for the indexer; dense attention without an index."""
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind()
        target = None
        if index is None:
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mixed, _, target = sparse_attention(q, k, v, index, return_target=teach)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x)))), target


@dataclass(frozen=True)
class Answered:
    """What a forward gives."""

    logits: Tensor
    """[B, T, symbols]."""
    halfway: Tensor
    """The same, read off after layer ``HALFWAY``."""
    cache: IndexCache
    """The index sets used."""


class Model(nn.Module):
    """Eight layers; the pattern and the number of keys are arguments of a forward."""

    def __init__(self, rng: torch.Generator) -> None:
        super().__init__()
        self.embed, self.previous = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, SYMBOLS, bias=False)
        nn.init.normal_(self.embed.weight, std=0.5)
        self.wire(rng)

    @torch.no_grad()
    def wire(self, rng: torch.Generator) -> None:
        """Let head 0 of every layer start as a lookup: match x with a previous token, copy its own.

        From random weights 1,000 steps teach the first hop and not the second.
        """
        width = WIDTH // HEADS
        basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=rng))[0].T
        turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=rng))[0]
        self.previous.weight.copy_(self.embed.weight @ turn)
        matched, copied = 1.5 * basis[:width], basis[width : 2 * width]
        for layer in self.layers:
            assert isinstance(layer, Layer)
            q, k, v = layer.qkv.weight.chunk(3)
            q[:width], k[:width], v[:width] = matched, matched @ turn, copied
            layer.out.weight.mul_(0.3)
            layer.out.weight[:, :width] = 0.5 * copied.T

    def forward(
        self, ids: Tensor, pattern: IndexPattern | None, topk: int = TOPK, teach: str = "nothing"
    ) -> Answered:
        """Dense attention without a pattern.

        ``teach``: nothing, own (each F layer's attention) or served (of all layers that it serves).
        """
        x = self.embed(ids) + functional.pad(self.previous(ids[:, :-1]), (0, 0, 1, 0))
        cache, halfway = IndexCache(ALL_F if pattern is None else pattern), x
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            index, taught = None, False
            if pattern is not None:
                if pattern.is_full(number):
                    layer.indexer.topk = topk
                    cache.publish(number, layer.indexer.select(layer.norm(x)))
                index = cache.fetch(number)
                taught = teach == "served" or (teach == "own" and pattern.is_full(number))
            x, target = layer.attend(x, index, taught)
            if target is not None and index is not None:
                index.add_target(number, target)
            if number == HALFWAY:
                halfway = x
        return Answered(self.head(self.norm(x)), self.head(self.norm(halfway)), cache)


def answer_loss(logits: Tensor, answers: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), answers.flatten())


@dataclass(frozen=True)
class Stage:
    """A part of training."""

    steps: int
    rate: float
    pattern: IndexPattern | None = None
    topk: int = TOPK
    teach: str = "nothing"
    frozen: bool = False
    """Whether the indexers alone learn."""


def train(model: Model, stage: Stage, rng: torch.Generator) -> float:
    """Run a stage; returns the mean answer loss of its last tenth."""
    model.train()
    kept = [p for name, p in model.named_parameters() if not stage.frozen or "indexer" in name]
    optimizer = torch.optim.AdamW(kept, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    for step in range(stage.steps):
        warm = min(1.0, (step + 1) / (0.1 * stage.steps + 1))
        decay = 0.1 + 0.9 * min(1.0, (stage.steps - step) / (0.4 * stage.steps))
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * warm * decay
        batch = recall(32, rng)
        seen: Answered = model(batch.ids, stage.pattern, stage.topk, stage.teach)
        loss = answer_loss(seen.logits, batch.answers)
        losses.append(float(loss.detach()))
        total = seen.cache.index_loss() if stage.frozen else loss
        if stage.teach != "nothing" and not stage.frozen:
            total = total + seen.cache.index_loss()
        if stage.pattern is None:
            total = total + answer_loss(seen.halfway, batch.once)
        optimizer.zero_grad()
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(kept, 1.0)
        optimizer.step()
    return statistics.mean(losses[-max(1, stage.steps // 10) :])


@torch.no_grad()
def score(model: Model, batches: Sequence[Batch], pattern: IndexPattern | None) -> dict[str, float]:
    """Answer loss and the accuracy of one-hop and two-hop queries."""
    model.eval()
    loss, right, counts = 0.0, [0, 0], [0, 0]
    for batch in batches:
        seen: Answered = model(batch.ids, pattern)
        loss += float(answer_loss(seen.logits, batch.answers)) / len(batches)
        hit = seen.logits[:, FIRST::2].argmax(-1) == batch.answers[:, FIRST::2]
        for hop in (0, 1):
            asked = batch.ids[:, FIRST - 1 :: 2] == HOP + hop
            right[hop] += int((hit & asked).sum())
            counts[hop] += int(asked.sum())
    return {"loss": loss, "one_hop": right[0] / counts[0], "two_hop": right[1] / counts[1]}
