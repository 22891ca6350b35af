"""Small-scale science of index sharing: what of the paper's claims shows on 8-layer models.

``python -m nightlab.evals.science_index_cache OUT.json [--seeds 3] [--scale 0.45]`` trains models
on recall that it generates itself, shares their indices along several patterns, and writes one
JSON document, and its models beside it. A part that is there already is not run again, so a cut run
goes on where it stopped; ``--seconds`` cuts it. The tables of what is finished are printed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from scipy import stats
from torch import Tensor

from nightlab.evals.science_index_cache_model import (
    ALL_F,
    LAYERS,
    TOKENS,
    TOPK,
    WIDTH,
    Answered,
    Batch,
    Model,
    Stage,
    recall,
    score,
    train,
)
from nightlab.kernels.index_cache import (
    IndexPattern,
    greedy_search,
    overlap,
    overlap_pattern,
)

Scores = dict[str, float]
"""``loss``, ``one_hop`` and ``two_hop`` of one model under one pattern."""


class Free(TypedDict):
    """What sharing without training gave for one seed."""

    patterns: dict[str, str]
    scores: dict[str, Scores]
    greedy_losses: list[float]
    """Calibration loss after each step of the full greedy search."""
    full_evaluations: int
    """Evaluations of the full search down to 1/4."""
    lazy_evaluations: int
    lazy_loss_over_full: float
    """Calibration loss of the lazy search's 1/4 pattern less the full search's."""
    overlap_by_lag: list[float]
    """Mean share of keys that layers 1, 2, ... apart have in common."""
    chance: float


class Seed(TypedDict):
    """Everything that one seed gave."""

    seed: int
    dense: Scores
    free: Free | None
    trained: dict[str, Scores]
    cpu_seconds: float


def uniform(keep: int) -> IndexPattern:
    return IndexPattern.from_freq(LAYERS, LAYERS // keep)


@torch.no_grad()
def similarity(model: Model, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """[N, N] mean overlap of all layers' own sets, and the chance level of each pair."""
    model.eval()
    shared, chance = torch.zeros(LAYERS, LAYERS), torch.zeros(LAYERS, LAYERS)
    for batch in batches:
        seen: Answered = model(batch.ids, ALL_F)
        for i in range(LAYERS):
            for j in range(LAYERS):
                pair = overlap(seen.cache.fetch(i), seen.cache.fetch(j))
                shared[i, j] += pair.shared / len(batches)
                chance[i, j] += pair.chance / len(batches)
    return shared, chance


def training_free(model: Model, calibration: Sequence[Batch], held: Sequence[Batch]) -> Free:
    """All-F against uniform, greedy and overlap-DP patterns, without any further training."""

    known: dict[str, float] = {}

    def loss(pattern: IndexPattern) -> float:
        if str(pattern) not in known:
            known[str(pattern)] = score(model, calibration, pattern)["loss"]
        return known[str(pattern)]

    full = greedy_search(loss, LAYERS, 1, lazy=False)
    lazy = greedy_search(loss, LAYERS, 2)
    shared, chance = similarity(model, calibration)
    patterns = {"all-F": ALL_F}
    for keep in (4, 2, 1):
        part = f"1/{LAYERS // keep}"
        patterns[f"uniform {part}"] = uniform(keep)
        patterns[f"greedy {part}"] = full.at(keep)
        patterns[f"overlap-DP {part}"] = overlap_pattern(shared, keep)
    return Free(
        patterns={name: str(pattern) for name, pattern in patterns.items()},
        scores={name: score(model, held, pattern) for name, pattern in patterns.items()},
        greedy_losses=[step.loss for step in full.steps],
        full_evaluations=1 + sum(LAYERS - 1 - step for step in range(LAYERS - 2)),
        lazy_evaluations=lazy.evaluations,
        lazy_loss_over_full=lazy.steps[-1].loss - full.steps[LAYERS - 3].loss,
        overlap_by_lag=[float(shared.diagonal(lag).mean()) for lag in range(1, LAYERS)],
        chance=float(chance.mean()),
    )


ARMS = {
    "all-F": (LAYERS, "own"),
    "1/4 own": (2, "own"),
    "1/4 served": (2, "served"),
    "1/8 own": (1, "own"),
    "1/8 served": (1, "served"),
}
"""Uniform patterns trained further: full layers that stay, and whose attention their indexers learn
(each its own layer's, or the mean of all layers served)."""


def trained_sharing(
    model: Model, name: str, held: Sequence[Batch], steps: int, seed: int
) -> Scores:
    """From the trained all-F model: the same further training under one pattern and loss."""
    keep, teach = ARMS[name]
    rng = torch.Generator().manual_seed(1000 + seed)
    pattern = uniform(keep)
    train(model, Stage(steps, 3e-3, pattern, TOKENS, teach, frozen=True), rng)
    train(model, Stage(2 * steps, 5e-4, pattern, TOPK, teach), rng)
    return score(model, held, pattern)


class Run:
    """One seed, a part at a time; what a part gives is stored, so that a cut costs one part."""

    def __init__(self, one: Seed, scale: float, folder: Path) -> None:
        self.one, self.scale = one, scale
        self.files = {part: folder / f"seed{one['seed']}-{part}.pt" for part in ("dense", "sparse")}
        self.calibration = [recall(64, torch.Generator().manual_seed(500 + i)) for i in range(2)]
        self.held = [recall(64, torch.Generator().manual_seed(900 + i)) for i in range(6)]

    def steps(self, count: int) -> int:
        return max(1, int(count * self.scale))

    def model(self, part: str) -> Model:
        model = Model(torch.Generator())
        model.load_state_dict(torch.load(self.files[part], weights_only=True))
        return model

    def part(self) -> bool:
        """Run the first part that is missing; False when none is."""
        one, seed = self.one, self.one["seed"]
        torch.manual_seed(seed)
        if not self.files["dense"].exists():
            rng = torch.Generator().manual_seed(seed)
            model = Model(rng)
            train(model, Stage(self.steps(1000), 3e-3), rng)
            torch.save(model.state_dict(), self.files["dense"])
            one["dense"] = score(model, self.held, None)
            say(f"seed {seed}: dense {told(one['dense'])}")
        elif not self.files["sparse"].exists():
            rng = torch.Generator().manual_seed(100 + seed)
            model = self.model("dense")
            stage = Stage(self.steps(300), 3e-3, ALL_F, TOKENS, "own", frozen=True)
            train(model, stage, rng)
            train(model, Stage(self.steps(150), 1e-3, ALL_F, TOPK, "own"), rng)
            torch.save(model.state_dict(), self.files["sparse"])
        elif one["free"] is None:
            free = training_free(self.model("sparse"), self.calibration, self.held)
            one["free"] = free
            for arm, scores in free["scores"].items():
                say(f"seed {seed}: {arm} {free['patterns'][arm]} {told(scores)}")
        else:
            left = [arm for arm in ARMS if arm not in one["trained"]]
            if not left:
                return False
            arm = left[0]
            steps = self.steps(60)
            scores = trained_sharing(self.model("sparse"), arm, self.held, steps, seed)
            one["trained"][arm] = scores
            say(f"seed {seed}: trained {arm} {told(scores)}")
        return True


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def told(scores: Scores) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in scores.items())


def interval(values: Sequence[float]) -> str:
    """Mean and half-width of Student's 95 % interval over seeds."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{mean:.3f} ± {half:.3f}"


def tables(seeds: Sequence[Seed]) -> str:
    """Every arm over the seeds; the loss as its rise over all-F of the same seed and stage."""
    lines = ["| arm | loss over all-F | one hop | two hops | patterns |", "| --- " * 5 + "|"]

    def row(name: str, scores: Sequence[Scores], base: Sequence[Scores], note: str) -> None:
        rise = [s["loss"] - b["loss"] for s, b in zip(scores, base, strict=True)]
        cells = [name, interval(rise)]
        cells += [interval([s[hop] for s in scores]) for hop in ("one_hop", "two_hop")]
        lines.append(f"| {' | '.join(cells)} | {note} |")

    free = [seed["free"] for seed in seeds if seed["free"] is not None]
    base = [one["scores"]["all-F"] for one in free]
    row("dense", [seed["dense"] for seed in seeds], base, "")
    for name in free[0]["scores"]:
        note = ", ".join(one["patterns"][name] for one in free)
        row(name, [one["scores"][name] for one in free], base, note)
    for name in seeds[0]["trained"]:
        arms = [seed["trained"][name] for seed in seeds]
        row(f"trained {name}", arms, [seed["trained"]["all-F"] for seed in seeds], "")
    lines.append("")
    for lag in range(1, LAYERS):
        lines.append(
            f"overlap at lag {lag}: {interval([o['overlap_by_lag'][lag - 1] for o in free])}"
        )
    lines.append(f"chance: {interval([one['chance'] for one in free])}")
    for one in free:
        lines.append(
            f"greedy to 1/4: lazy {one['lazy_evaluations']} evaluations, full "
            f"{one['full_evaluations']}, loss {one['lazy_loss_over_full']:+.4f}; full losses "
            + " ".join(f"{loss:.3f}" for loss in one["greedy_losses"])
        )
    return "\n".join(lines)


def stored(path: Path, settings: Mapping[str, object]) -> list[Seed]:
    """The seeds of an earlier run, none without one. SystemExit where its settings differ."""
    if not path.exists():
        return []
    document = json.loads(path.read_text())
    if document["settings"] != settings:
        raise SystemExit(f"{path} holds a run of {document['settings']}: give another file")
    found: list[Seed] = document["seeds"]
    return found


def main() -> None:
    """Run the parts that are missing, writing after each; then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=0.45)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no part later")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"layers": LAYERS, "width": WIDTH, "tokens": TOKENS, "topk": TOPK,
                "scale": asked.scale}  # fmt: skip
    seeds = stored(asked.out, settings)
    for seed in range(len(seeds), asked.seeds):
        seeds.append(Seed(seed=seed, dense={}, free=None, trained={}, cpu_seconds=0.0))
    folder = asked.out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    for one in seeds:
        run, more = Run(one, asked.scale, folder), True
        while more and time.monotonic() - begun < asked.seconds:
            start = time.process_time()
            more = run.part()
            one["cpu_seconds"] += time.process_time() - start
            asked.out.write_text(json.dumps({"settings": settings, "seeds": seeds}, indent=1))
    finished = [one for one in seeds if len(one["trained"]) == len(ARMS)]
    if finished:
        print(tables(finished))


if __name__ == "__main__":
    main()
