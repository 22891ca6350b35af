"""Record what single edits of a task's baseline are worth, so that arms can be compared on replay.

    python -m nightlab.agents.bench_search.singles --out FILE [--task byte_lm] [--rung small]

Every edit that the catalogue can make is trained once on one seed and scored by trusted code, then
``--combined`` programs of two to five of them, drawn at random. One JSON object a line; a line that
is there is not run again, so a killed run goes on where it was.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nightlab.agents import catalogue, start
from nightlab.agents import trial as trials
from nightlab.agents.trial import Bench
from nightlab.evals import scorer
from nightlab.evals.task import load
from nightlab.sandbox.choose import choose
from nightlab.vocabulary import Program, Run, Rung, Split

SEED = 100_001
"""The evaluator's seed of every recorded trial."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One program to record."""

    edits: Mapping[str, str]
    """Part to variant; none for the baseline."""
    program: Program

    @property
    def name(self) -> str:
        """The edits in words, the line's key."""
        return " ".join(f"{part}={variant}" for part, variant in self.edits.items()) or "baseline"


def wanted(baseline: Program, combined: int, seed: int = 0) -> Iterator[Wanted]:
    """The baseline, every single edit, and programs of two to five edits."""
    yield Wanted(edits={}, program=baseline)
    open_to = [o for o in catalogue.operators() if o.applicable(baseline)]
    for operator in open_to:
        yield Wanted(edits={operator.part: operator.variant}, program=operator.apply(baseline))
    rng = np.random.default_rng(seed)
    for _ in range(combined):
        edits: dict[str, str] = {}
        program = baseline
        for place in rng.permutation(len(open_to))[: int(rng.integers(2, 6))]:
            operator = open_to[int(place)]
            if operator.part not in edits and operator.applicable(program):
                program = operator.apply(program)
                edits[operator.part] = operator.variant
        yield Wanted(edits=edits, program=program)


def measured(bench: Bench, one: Wanted, rung: Rung, seed: int) -> dict[str, object]:
    """One trial's line."""
    run: Run = bench.train(bench.open(), one.program, rung, seed)
    measurement = bench.measure(one.program, run, Split.SEARCH, seed, fresh_checker=False)
    trials.discard(run)
    value = measurement.metrics.get(bench.task.metric) if measurement else None
    return {
        "name": one.name,
        "genes": dict(catalogue.current(one.program)),
        "ending": str(run.ending),
        "value": value,
        "reward": None if value is None else value * bench.task.direction.sign,
        "seed": seed,
    }


def record(bench: Bench, rung: Rung, out: Path, combined: int, workers: int, seed: int) -> None:
    """Run what ``out`` does not hold yet, saying on stderr how far it is."""
    lines = out.read_text().splitlines() if out.is_file() else []
    known = {(row["name"], row["seed"]) for row in map(json.loads, lines)}
    left = {
        one.name: one
        for one in wanted(bench.task.baseline, combined)
        if (one.name, seed) not in known
    }
    began = time.monotonic()
    with out.open("a") as file, ThreadPoolExecutor(workers) as pool:
        jobs = pool.map(lambda one: measured(bench, one, rung, seed), left.values())
        for done, row in enumerate(jobs, 1):
            file.write(json.dumps(row) + "\n")
            file.flush()
            eta = (time.monotonic() - began) / done * (len(left) - done)
            said = f"{done}/{len(left)} {row['name']}: {row['value'] or row['ending']}"
            print(f"{said}, {eta / 60:.1f} min left", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="byte_lm")
    parser.add_argument("--rung", default="small")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--home", type=Path, default=Path("~/.nightlab").expanduser())
    parser.add_argument("--combined", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sandbox", default="process")
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args(arguments)
    task = load(given.task)
    choice = choose(given.sandbox)
    bench = start.bench(task, scorer.make(task).prepare(given.home), choice.sandbox, given.workers)
    try:
        rung = task.rung(given.rung)
        record(bench, rung, given.out, given.combined, given.workers, given.seed)
    finally:
        choice.sandbox.close()


if __name__ == "__main__":
    main()
