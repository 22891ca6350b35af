"""Small-scale science of index sharing: what of the paper's claims shows on 8-layer models.

``python -m nightlab.evals.science_index_cache OUT.json [--seeds 3] [--scale 1.0]`` trains models on
one- and two-hop associative recall that it generates itself, shares their indices along several
patterns, and writes one JSON document. A two-hop query needs two lookups in different layers, so
layers need different keys and sharing can hurt.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from nightlab.kernels.index_cache import (
    IndexCache,
    IndexPattern,
    IndexSet,
    LightningIndexer,
    greedy_search,
    overlap,
    overlap_pattern,
    sparse_attention,
)

LAYERS, WIDTH, HEADS = 8, 64, 4
PAIRS, FILLERS, QUERIES = 8, 40, 12
SYMBOLS, NOISE = 16, 8
HOP = SYMBOLS + NOISE
"""Token before a query's key: HOP asks for the key's value, HOP + 1 for its value's value."""
VOCABULARY = SYMBOLS + NOISE + 2
TOKENS = 2 * PAIRS + FILLERS + 2 * QUERIES
TOPK = TOKENS // 16
ALL_F = IndexPattern.all_full(LAYERS)


@dataclass(frozen=True)
class Batch:
    """Token ids [B, T] and, at each query's key, the answer; -100 elsewhere."""

    ids: Tensor
    answers: Tensor


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
    answers = torch.full((batch, TOKENS), -100)
    answers[:, 2 * PAIRS + FILLERS + 1 :: 2] = answer
    return Batch(torch.cat((body, tail), 1), answers)


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


class Model(nn.Module):
    """Eight layers; the pattern and the number of keys are arguments of a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.previous = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, SYMBOLS, bias=False)
        for table in (self.embed, self.previous):
            nn.init.normal_(table.weight, std=0.5)

    def forward(
        self, ids: Tensor, pattern: IndexPattern | None, topk: int = TOPK, teach: str = "nothing"
    ) -> tuple[Tensor, IndexCache]:
        """Logits [B, T, symbols] and the sets used; dense attention without a pattern.

        ``teach``: nothing, own (each F layer's attention) or served (of all layers that it serves).
        """
        x = self.embed(ids) + functional.pad(self.previous(ids[:, :-1]), (0, 0, 1, 0))
        cache = IndexCache(ALL_F if pattern is None else pattern)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            if pattern is None:
                x, _ = layer.attend(x, None, False)
                continue
            if pattern.is_full(number):
                layer.indexer.topk = topk
                cache.publish(number, layer.indexer.select(layer.norm(x)))
            index = cache.fetch(number)
            taught = teach == "served" or (teach == "own" and pattern.is_full(number))
            x, target = layer.attend(x, index, taught)
            if target is not None:
                index.add_target(number, target)
        logits: Tensor = self.head(self.norm(x))
        return logits, cache


def answer_loss(logits: Tensor, batch: Batch) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), batch.answers.flatten())


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
        logits, cache = model(batch.ids, stage.pattern, stage.topk, stage.teach)
        loss = answer_loss(logits, batch)
        losses.append(float(loss.detach()))
        total = cache.index_loss() if stage.frozen else loss
        if stage.teach != "nothing" and not stage.frozen:
            total = total + cache.index_loss()
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
        logits, _ = model(batch.ids, pattern)
        loss += float(answer_loss(logits, batch)) / len(batches)
        at = 2 * PAIRS + FILLERS + 1
        hit = logits[:, at::2].argmax(-1) == batch.answers[:, at::2]
        for hop in (0, 1):
            asked = batch.ids[:, at - 1 :: 2] == HOP + hop
            right[hop] += int((hit & asked).sum())
            counts[hop] += int(asked.sum())
    return {"loss": loss, "one_hop": right[0] / counts[0], "two_hop": right[1] / counts[1]}


def uniform(keep: int) -> IndexPattern:
    return IndexPattern.from_freq(LAYERS, LAYERS // keep)


@torch.no_grad()
def similarity(model: Model, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """[N, N] mean overlap of all layers' own sets, and the chance level of each pair."""
    model.eval()
    shared, chance = torch.zeros(LAYERS, LAYERS), torch.zeros(LAYERS, LAYERS)
    for batch in batches:
        _, cache = model(batch.ids, ALL_F)
        for i in range(LAYERS):
            for j in range(LAYERS):
                pair = overlap(cache.fetch(i), cache.fetch(j))
                shared[i, j] += pair.shared / len(batches)
                chance[i, j] += pair.chance / len(batches)
    return shared, chance


def training_free(
    model: Model, calibration: Sequence[Batch], held: Sequence[Batch]
) -> dict[str, object]:
    """All-F against uniform, greedy and overlap-DP patterns, without any further training."""

    def loss(pattern: IndexPattern) -> float:
        return score(model, calibration, pattern)["loss"]

    full = greedy_search(loss, LAYERS, 1, lazy=False)
    lazy = greedy_search(loss, LAYERS, 2)
    shared, chance = similarity(model, calibration)
    rows = {"all-F": {"pattern": str(ALL_F), **score(model, held, ALL_F)}}
    for keep in (4, 2, 1):
        found = {"uniform": uniform(keep), "greedy": full.at(keep),
                 "overlap-DP": overlap_pattern(shared, keep)}  # fmt: skip
        for name, pattern in found.items():
            rows[f"{name} 1/{LAYERS // keep}"] = {
                "pattern": str(pattern), **score(model, held, pattern)
            }  # fmt: skip
    lags = range(1, LAYERS)
    return {
        "rows": rows,
        "greedy_losses": [step.loss for step in full.steps],
        "full_evaluations_to_1/4": 1 + sum(LAYERS - 1 - step for step in range(LAYERS - 2)),
        "lazy_evaluations_to_1/4": lazy.evaluations,
        "lazy_loss_over_full": lazy.steps[-1].loss - full.steps[LAYERS - 3].loss,
        "overlap_by_lag": [float(shared.diagonal(lag).mean()) for lag in lags],
        "chance": float(chance.mean()),
    }


def trained_sharing(
    model: Model, state: dict[str, Tensor], held: Sequence[Batch], steps: int, seed: int
) -> dict[str, dict[str, float]]:
    """From one trained all-F model: the same further training under each pattern and loss."""
    rows = {}
    for keep, teach in ((LAYERS, "own"), (2, "own"), (2, "served"), (1, "own"), (1, "served")):
        rng = torch.Generator().manual_seed(1000 + seed)
        model.load_state_dict(state)
        pattern = uniform(keep)
        train(model, Stage(steps, 3e-3, pattern, TOKENS, teach, frozen=True), rng)
        train(model, Stage(2 * steps, 5e-4, pattern, TOPK, teach), rng)
        name = "all-F" if keep == LAYERS else f"1/{LAYERS // keep} {teach}"
        rows[name] = score(model, held, pattern)
    return rows


def run_seed(seed: int, scale: float = 1.0) -> dict[str, object]:
    """Train one model and put it through every comparison."""
    start = time.process_time()
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    calibration = [recall(64, torch.Generator().manual_seed(500 + i)) for i in range(2)]
    held = [recall(64, torch.Generator().manual_seed(900 + i)) for i in range(6)]
    model = Model()
    train(model, Stage(int(900 * scale), 3e-3), rng)
    dense = score(model, held, None)
    train(model, Stage(int(100 * scale), 3e-3, ALL_F, TOKENS, "own", frozen=True), rng)
    train(model, Stage(int(60 * scale), 5e-4, ALL_F, TOPK, "own"), rng)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    free = training_free(model, calibration, held)
    trained = trained_sharing(model, state, held, int(30 * scale), seed)
    return {
        "seed": seed, "dense": dense, "training_free": free, "trained": trained,
        "cpu_seconds": time.process_time() - start,
    }  # fmt: skip


def main() -> None:
    """Run all seeds, writing after each, so that a cut run leaves what it has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    done: list[dict[str, object]] = []
    for seed in range(asked.seeds):
        done.append(run_seed(seed, asked.scale))
        settings = {"layers": LAYERS, "width": WIDTH, "tokens": TOKENS, "topk": TOPK,
                    "scale": asked.scale}  # fmt: skip
        asked.out.write_text(json.dumps({"settings": settings, "seeds": done}, indent=1))


if __name__ == "__main__":
    main()
