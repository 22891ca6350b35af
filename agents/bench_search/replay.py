"""``byte_lm`` replayed: a table fitted to recorded trials, so that arms can be compared without
training anything.

Recorded campaigns hold a few hundred programs of a space of millions, so looks at others must be
foretold: the table's values are the surrogate's means over the parts that vary most, and each
look's seeds spread by what the surrogate leaves unexplained (leave-one-out). What wins here wins
on the fitted landscape; it is a replay, never evidence about ``byte_lm`` itself.

The file has one JSON object a line: ``{"genes": {part: variant, ...}, "reward": number}``, higher
is better.

"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.bench_search.tables import Table
from nightlab.agents.policy.interface import Archive, Attempt, Menu, Outcome, Part
from nightlab.agents.policy.surrogate import Kernel, Surrogate
from nightlab.errors import MissingError, UsageError

Floats = NDArray[np.float64]

MOST_CELLS = 60_000
LEAST_TRIALS = 20
SEEDS = 3


def fitted(path: Path, name: str = "byte_lm-replay") -> Table:
    """The table fitted to a file of trials.

    Raises MissingError where there is no file, UsageError where it holds too few trials.
    """
    if not path.is_file():
        raise MissingError(f"{path} is missing: a replay needs a file of recorded trials.")
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    if len(rows) < LEAST_TRIALS:
        raise UsageError(f"{path} holds {len(rows)} trials; a replay needs {LEAST_TRIALS}.")
    genes = [{str(k): str(v) for k, v in row["genes"].items()} for row in rows]
    parts = _parts(genes)
    rewards = np.array([float(row["reward"]) for row in rows])
    surrogate = _surrogate(parts, genes, rewards)
    shape = tuple(len(part.variants) for part in parts)
    cells = np.stack(np.unravel_index(np.arange(int(np.prod(shape))), shape), axis=1)
    blocks = [
        surrogate.predict(block).mean for block in np.array_split(cells, len(cells) // 2000 + 1)
    ]
    values = np.concatenate(blocks).reshape(shape)
    precision = np.square(surrogate.inverse_factor).sum(axis=0)
    left = float(np.std(surrogate.weights / precision))
    noise = np.random.default_rng(0).standard_normal((*shape, SEEDS))
    noise -= noise.mean(axis=-1, keepdims=True)
    seeds = values[..., None] + left * noise
    return Table(name=name, parts=parts, values=values, seeds=seeds, unit="rank scores")


def _parts(genes: Sequence[Mapping[str, str]]) -> tuple[Part, ...]:
    """The parts that vary, most varied first while the space stays small enough, by name."""
    counts: dict[str, Counter[str]] = {}
    for program in genes:
        for part, variant in program.items():
            counts.setdefault(part, Counter())[variant] += 1
    order = sorted(counts, key=lambda part: (max(counts[part].values()), part))
    kept: list[Part] = []
    cells = 1
    for part in order:
        size = len(counts[part])
        if size > 1 and cells * size <= MOST_CELLS:
            cells *= size
            kept.append(Part(part, tuple(sorted(counts[part]))))
    if not kept:
        raise UsageError("The recorded trials are all of one program: nothing can be replayed.")
    return tuple(sorted(kept, key=lambda part: part.name))


def _surrogate(
    parts: tuple[Part, ...], genes: Sequence[Mapping[str, str]], rewards: Floats
) -> Surrogate:
    archive = Archive(Menu(parts=parts))
    names = {part.name for part in parts}
    for place, (program, reward) in enumerate(zip(genes, rewards, strict=True)):
        archive.record(
            Attempt(
                id=str(place),
                program=str(place),
                genes={part: variant for part, variant in program.items() if part in names},
                outcome=Outcome.VALID,
                reward=float(reward),
            )
        )
    surrogate = Surrogate.of(archive, Kernel(rows=1000))
    if surrogate is None:
        raise UsageError("Too few recorded trials are valid for a replay.")
    return surrogate
