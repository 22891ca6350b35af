"""Made-up nights to learn on: campaigns of the real loop's shape on spaces that do not exist.

A night begins at one baseline, in a space of ten to thirty parts with three to ten variants, about
half of them dials; a few parts matter much and most little (heavy tails), most edits hurt, looks
are noisy. Sizes, shares, tails and noise are drawn per seed; nothing is taken from a recorded task.
"""

import numpy as np

from nightlab.agents.bench_search.landscape import Campaign, Landscape
from nightlab.agents.policy.interface import Part, Policy, Record

LOOKS = (20, 61)
"""Range of a night's decisions, the upper end left out."""


def simulated_night(seed: int) -> Landscape:
    """The landscape of a seed."""
    rng = np.random.default_rng([seed, 31])
    parts: list[Part] = []
    baseline: dict[str, str] = {}
    gains: dict[str, float] = {}
    dials = float(rng.uniform(0.2, 0.7))
    for number in range(int(rng.integers(10, 31))):
        name = f"part{number}"
        variants = tuple(str(v) for v in range(int(rng.integers(3, 11))))
        dial = bool(rng.random() < dials)
        start = int(rng.integers(len(variants)))
        scale = 0.15 * float(rng.gamma(0.6)) / 0.6
        worth = _along(len(variants), start, rng) if dial else _apart(len(variants), rng)
        parts.append(Part(name, variants, ordered=dial))
        baseline[name] = variants[start]
        gains |= {
            f"{name}={variant}": scale * float(worth[place])
            for place, variant in enumerate(variants)
            if place != start
        }
    noise = float(rng.choice((0.2, 0.5, 1.0))) * float(np.std(list(gains.values())))
    return Landscape(tuple(parts), baseline, gains, noise, seed)


def _along(size: int, start: int, rng: np.random.Generator) -> np.ndarray:
    """A dial: a slope and a bend around the baseline."""
    steps = np.arange(size) - start
    slope, bend = rng.standard_normal(), abs(rng.standard_normal())
    worth: np.ndarray = slope * steps - 0.3 * bend * steps**2
    return worth


def _apart(size: int, rng: np.random.Generator) -> np.ndarray:
    """A part: heavy tails, and more harm than good."""
    worth: np.ndarray = np.clip(rng.standard_t(3, size) - 0.4, -5.0, 5.0)
    return worth


def night_records(policy: Policy, seed: int, name: str) -> list[Record]:
    """One night's decisions with their outcomes."""
    rng = np.random.default_rng([seed, 32])
    looks = int(rng.integers(*LOOKS))
    campaign = Campaign(name, simulated_night(seed), rng)
    for look in range(looks):
        campaign.step(policy, 1.0 - look / looks)
    return campaign.records
