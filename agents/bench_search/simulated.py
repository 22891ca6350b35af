"""Made-up tables to learn on: random spaces with parts that add up, interact and spoil.

A program's latent quality is a sum of an effect per variant, of pair effects and of a few
three-way effects, in random proportions; a share of the variants spoils a program. The score is a
monotone, skewed function of the quality, as accuracies are. No table resembles a recorded one
by design: sizes, proportions and skew are all drawn.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.bench_search.tables import Table
from nightlab.agents.policy.interface import Part

Floats = NDArray[np.float64]

MOST_CELLS = 40_000


def simulated(seed: int) -> Table:
    """The table of a seed: 4 to 10 parts of 2 to 6 variants, at most 40,000 programs."""
    rng = np.random.default_rng([seed, 7])
    shape = _shape(rng)
    latent = np.zeros(shape)
    shares = rng.dirichlet((4.0, 2.0, 0.7))
    for size, share in zip((1, 2, 3), shares, strict=True):
        latent += np.sqrt(share) * _effects(shape, size, rng)
    latent -= _spoiled(shape, rng)
    latent = (latent - latent.mean()) / latent.std()
    skew = rng.uniform(0.2, 1.5)
    values = 1.0 - np.exp(-skew * (latent - latent.min()))
    noise = rng.choice((0.0, 0.02, 0.05)) * values.std()
    values = values + noise * rng.standard_normal(shape)
    dial = rng.random(len(shape)) < 0.2
    parts = tuple(
        Part(f"part{i}", tuple(str(v) for v in range(n)), ordered=bool(dial[i]))
        for i, n in enumerate(shape)
    )
    return Table(name=f"simulated-{seed}", parts=parts, values=values, unit="score")


def _shape(rng: np.random.Generator) -> tuple[int, ...]:
    while True:
        count = int(rng.integers(4, 11))
        most = int(rng.integers(2, 7))
        shape = tuple(int(rng.integers(2, most + 1)) for _ in range(count))
        if 500 <= np.prod(shape) <= MOST_CELLS:
            return shape


def _effects(shape: tuple[int, ...], size: int, rng: np.random.Generator) -> Floats:
    """A standardised sum of effects of groups of ``size`` parts."""
    groups = list(combinations(range(len(shape)), size))
    keep = len(groups) if size == 1 else max(1, int(len(groups) * rng.uniform(0.1, 0.7)))
    total = np.zeros(shape)
    for place in rng.permutation(len(groups))[:keep]:
        group = groups[int(place)]
        sizes = [n if axis in group else 1 for axis, n in enumerate(shape)]
        total = total + rng.gamma(1.0) * rng.standard_normal(sizes)
    deviation = total.std()
    return total / deviation if deviation > 0 else total


def _spoiled(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Variants that cost a program dearly, in some spaces alone, in some only together."""
    cost = np.zeros(shape)
    for axis, size in enumerate(shape):
        bad = (rng.random(size) < 0.12) * rng.uniform(0.5, 3.0)
        cost = cost + bad.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return cost
