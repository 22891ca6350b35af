"""Variants of the schedule: the factor on every learning rate at a fraction of the budget."""

import math

from nightlab.evals.tasks.byte_lm.program import Recipe


def linear(progress: float, recipe: Recipe) -> float:
    """Warm-up, then a straight line down to zero.

    Why: Averaging the last steps' noise away needs the rate to go all the way to zero.
    From: Defazio et al. 2023, arXiv 2310.07831; Bergsma et al. 2025, arXiv 2502.15938
    """
    if progress < recipe.warmup:
        return progress / recipe.warmup
    return max(0.0, 1 - progress) / max(1e-6, 1 - recipe.warmup)


def cosine_to_zero(progress: float, recipe: Recipe) -> float:
    """Warm-up, then a cosine down to zero.

    Why: The last tenth of the rate is noise that the end of training can do without.
    From: Loshchilov & Hutter 2017, arXiv 1608.03983, with no floor
    """
    if progress < recipe.warmup:
        return progress / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def trapezoid(progress: float, recipe: Recipe) -> float:
    """Warm-up, a plateau, then a straight line to zero over the last two fifths.

    Why: The full rate for longer goes further; a late cool-down is enough to settle.
    From: Zhai et al. 2021, arXiv 2106.04560; Hägele et al. 2024, arXiv 2405.18392
    """
    if progress < recipe.warmup:
        return progress / recipe.warmup
    return min(1.0, max(0.0, 1 - progress) / 0.4)


def square_root_cooldown(progress: float, recipe: Recipe) -> float:
    """Warm-up, a plateau, then one minus a square root over the last two fifths.

    Why: A cool-down that falls fast at first leaves more steps at small rates to settle in.
    From: Hägele et al. 2024, arXiv 2405.18392, eq. 1
    """
    if progress < recipe.warmup:
        return progress / recipe.warmup
    return 1 - math.sqrt(min(1.0, max(0.0, (progress - 0.6) / 0.4)))


def constant(progress: float, recipe: Recipe) -> float:
    """Warm-up, then the full rate to the end.

    Why: A run this short may still gain more from going on than from settling.
    From: the control of every schedule study
    """
    return min(1.0, progress / recipe.warmup) if recipe.warmup > 0 else 1.0


def inverse_square_root(progress: float, recipe: Recipe) -> float:
    """Warm-up, then a fall with the square root of time.

    Why: It falls early and never quite stops, so it needs to know no end.
    From: Vaswani et al. 2017, arXiv 1706.03762, eq. 3
    """
    start = max(recipe.warmup, 0.02)
    return min(progress / start, math.sqrt(start / max(progress, start)))
