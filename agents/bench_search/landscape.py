"""``byte_lm`` as a landscape of recorded edits: campaigns of its size without training anything.

    python -m nightlab.agents.bench_search.landscape --seeds 40 [--arms bandit warm ...] [--json]

A program's gain is the sum of its edits' recorded gains, which foretells recorded programs of two
to five edits with a correlation of 0.87, plus an effect per pair of edits, drawn with the size of
what the sum leaves unexplained: another landscape for every seed, so that no arm can be fitted to
one. A look adds the noise of one seed. Campaigns begin at the baseline as the real ones do. This
compares arms; it is no evidence about ``byte_lm`` itself.
"""

import argparse
import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import stats

from nightlab.agents import catalogue
from nightlab.agents.policy.interface import (
    Archive,
    Attempt,
    Context,
    Menu,
    Outcome,
    Part,
    Policy,
    Record,
)

DATA = "byte_lm_trials.json"
LOOKS = (10, 25, 50)
"""Decisions at which an arm is judged: a campaign of 60 trials makes about 25."""
REMAINDER = 0.3
"""Standard deviation of what the sum leaves unexplained of a program of three or four edits."""
TYPICAL_PAIRS = 5.0
MOST = 2.5
"""Gains add up with less and less return towards this: 4.4 bits per byte cannot fall to nothing.
Chosen, not fitted: recorded programs of a few edits are too far below it. It changes no ranks."""


@dataclass(frozen=True)
class Landscape:
    """Gains of every program, in the metric's unit, higher is better."""

    parts: tuple[Part, ...]
    baseline: Mapping[str, str]
    gains: Mapping[str, float]
    """``part=variant`` to its gain alone; 0 for the baseline's own."""
    noise: float
    """Standard deviation of one look's paired gain."""
    seed: int

    def gain(self, genes: Mapping[str, str]) -> float:
        """True gain over the baseline."""
        edits = sorted(f"{p}={v}" for p, v in genes.items() if self.baseline[p] != v)
        alone = sum(self.gains[edit] for edit in edits)
        whole = alone + sum(self._together(a, b) for a, b in combinations(edits, 2))
        return MOST * (1.0 - float(np.exp(-whole / MOST))) if whole > 0 else whole

    def _together(self, first: str, second: str) -> float:
        """What a pair adds: drawn from its names and the seed, the same every time."""
        bits = zlib.crc32(f"{self.seed}/{first}/{second}".encode()) / 2**32
        return float(stats.norm.ppf(min(max(bits, 1e-6), 1 - 1e-6))) * self._size

    @cached_property
    def _size(self) -> float:
        return REMAINDER / float(np.sqrt(TYPICAL_PAIRS))


def recorded(seed: int, data: Path | None = None) -> Landscape:
    """The landscape of the trials that ship, with the pair effects of a seed."""
    path = data or Path(str(resources.files("nightlab.agents.bench_search"))) / DATA
    found = json.loads(path.read_text())
    genes: dict[str, str] = found["genes"]
    single = {name: value for name, value in found["trials"].items() if " " not in name}
    gains = {name: found["baseline"] - value for name, value in single.items()}
    parts = []
    for part in catalogue.parts():
        if part.name not in genes:
            continue
        known = tuple(v for v in part.variants if f"{part.name}={v}" in gains)
        variants = tuple(v for v in part.variants if v in known or v == genes[part.name])
        parts.append(Part(part.name, variants, part.ordered))
    noise = float(np.sqrt(2.0)) * found["noise_sd"]
    return Landscape(tuple(parts), genes, gains, noise, seed)


class Campaign:
    """One policy on one landscape: the real loop's decisions, one look each."""

    def __init__(self, name: str, land: Landscape, rng: np.random.Generator) -> None:
        self.name, self.land, self.rng = name, land, rng
        self.archive = Archive(Menu(parts=land.parts, boldness=("1", "2", "3"), version=DATA))
        self.records: list[Record] = []
        start = {part.name: land.baseline[part.name] for part in land.parts}
        self.archive.record(
            Attempt(
                id=f"{name}:0",
                program=str(start),
                genes=start,
                outcome=Outcome.VALID,
                reward=0.0,
            )
        )

    def step(self, policy: Policy, budget_left: float) -> None:
        """Decide, look, record."""
        context = Context(
            campaign=self.name,
            id=f"{self.name}:{len(self.archive)}",
            archive=self.archive,
            budget_left=budget_left,
            noise=self.land.noise,
        )
        decision = policy.choose(context, self.rng)
        parent = self.archive.attempts[self.archive.row[decision.parent]]
        genes = {**parent.genes, **dict(decision.edits)}
        reward = self.land.gain(genes) + self.land.noise * float(self.rng.standard_normal())
        self.archive.record(
            Attempt(
                id=decision.id,
                program=str(genes),
                parent=decision.parent,
                genes=genes,
                author=decision.author,
                part=decision.part,
                variant=decision.variant,
                boldness=decision.boldness,
                outcome=Outcome.VALID,
                reward=reward,
            )
        )
        self.records.append(Record(decision=decision, outcome=Outcome.VALID, reward=reward))

    def handed_over(self) -> float:
        """True gain of the program that measured best."""
        best = max(self.archive.attempts, key=lambda attempt: attempt.reward or 0.0)
        return self.land.gain(best.genes)

    def novelty(self) -> float:
        """Share of decisions whose edits touch a part that is no dial."""
        dials = {part.name for part in self.land.parts if part.ordered}
        touched = [{p for p, _ in r.decision.edits} - dials for r in self.records]
        return float(np.mean([bool(parts) for parts in touched]))


def run(
    make: Callable[[], Policy], seed: int, looks: Sequence[int] = LOOKS
) -> tuple[list[float], float]:
    """True gains after so many decisions, and the share of decisions that touched parts."""
    land, policy = recorded(seed), make()
    campaign = Campaign(f"s{seed}", land, np.random.default_rng([seed, 21]))
    gains = []
    for look in range(max(looks)):
        campaign.step(policy, 1.0 - look / max(looks))
        policy.learn(campaign.records, np.random.default_rng([seed, 22, look]))
        if look + 1 in looks:
            gains.append(campaign.handed_over())
    return gains, campaign.novelty()


def arms() -> dict[str, Callable[[], Policy]]:
    """Who is compared."""
    from nightlab.agents.bench_campaigns.arms import Drawn
    from nightlab.agents.policy.greedy import SurrogateGreedy
    from nightlab.agents.policy.stored import bandit, cold, warm

    return {
        "random": lambda: Drawn("random", by_puct=False),
        "puct": lambda: Drawn("puct", by_puct=True),
        "bandit": bandit,
        "surrogate greedy": SurrogateGreedy,
        "cold": cold,
        "warm": warm,
    }


def compare(names: Sequence[str], seeds: int) -> list[dict[str, object]]:
    """One row per arm: mean true gain at each look count with its 95 % half-width."""
    rows: list[dict[str, object]] = []
    for name in names:
        found = [run(arms()[name], seed) for seed in range(seeds)]
        table = np.array([gains for gains, _ in found])
        half = 1.96 * table.std(axis=0, ddof=1) / np.sqrt(seeds)
        row = {
            "arm": name,
            "looks": list(LOOKS),
            "gain": table.mean(axis=0).round(4).tolist(),
            "half_width": half.round(4).tolist(),
            "gains": table.round(4).tolist(),
            "touched_parts": round(float(np.mean([share for _, share in found])), 3),
        }
        rows.append(row)
        cells = [f"{g:.3f} +- {h:.3f}" for g, h in zip(table.mean(axis=0), half, strict=True)]
        shown = "  ".join(f"{cell:>16}" for cell in cells)
        print(f"{name:18} {shown}  parts {row['touched_parts']}", file=sys.stderr, flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--arms", nargs="*", default=list(arms()))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    print(f"{'arm':18} true gain, bits per byte, after {LOOKS} decisions", file=sys.stderr)
    rows = compare(given.arms, given.seeds)
    if given.json:
        print(json.dumps({"bench": "landscape", "seeds": given.seeds, "rows": rows}))


if __name__ == "__main__":
    main()
