"""Drawing one option of a head so that its probability is known and never too small to use."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nightlab.agents.policy.decisions import Choice, Head

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

EPSILON = 0.02
"""Share of every draw that is uniform over the mask: bounds the importance weights."""


def floored(probabilities: Floats, mask: Mask, epsilon: float = EPSILON) -> Floats:
    """Behaviour distribution (1 - eps) * pi + eps / |mask|, shape (options,).

    ``probabilities`` need not be normalised; where they are all 0 on the mask, pi is uniform.
    Raises ValueError where the mask is empty.
    """
    count = int(mask.sum())
    if not count:
        raise ValueError("nothing to choose from: the mask is empty")
    inside = np.where(mask, probabilities, 0.0)
    total = inside.sum()
    pi = inside / total if total > 0 else mask / count
    mixed: Floats = (1.0 - epsilon) * pi + epsilon * mask / count
    normal: Floats = mixed / mixed.sum()
    return normal


def best_probabilities(mean: Floats, deviation: Floats, mask: Mask, nodes: int = 96) -> Floats:
    """Thompson sampling's own distribution: P(option has the highest draw), shape (options,).

    Draws are independent normals. The integral of pdf_i * prod_{j != i} cdf_j is taken on a grid,
    so that drawing from the result *is* Thompson sampling, with a propensity that is exact to
    the grid instead of estimated from draws.
    """
    chosen = np.flatnonzero(mask)
    result = np.zeros(len(mean))
    if len(chosen) == 1:
        result[chosen] = 1.0
        return result
    mu, sd = mean[chosen], np.maximum(deviation[chosen], 1e-6)
    low, high = (mu - 5.0 * sd).max(), (mu + 5.0 * sd).max()
    grid = np.linspace(min(low, high - 1e-6), high, nodes)
    z = (grid[None, :] - mu[:, None]) / sd[:, None]
    log_cdf = np.log(np.maximum(ndtr(z), 1e-300))
    pdf = np.exp(-0.5 * z * z) / sd[:, None]
    weight = pdf * np.exp(log_cdf.sum(axis=0)[None, :] - log_cdf)
    mass = weight.sum(axis=1)
    total = mass.sum()
    result[chosen] = mass / total if total > 0 else mu == mu.max()
    normal: Floats = result / result.sum()
    return normal


def softmax(logits: Floats, mask: Mask) -> Floats:
    """Softmax on the mask, 0 elsewhere, shape (options,)."""
    inside = np.where(mask, logits, -np.inf)
    weights: Floats = np.exp(inside - inside.max())
    result: Floats = weights / weights.sum()
    return result


def draw(
    head: Head,
    options: Sequence[str],
    mask: Mask,
    probabilities: Floats,
    rng: np.random.Generator,
    *,
    features: Floats | None = None,
    prior: Floats | None = None,
    value: Floats | None = None,
    epsilon: float = EPSILON,
) -> Choice:
    """Draw one option and freeze everything that learning from it will need."""
    mu = floored(probabilities, mask, epsilon)
    index = int(np.searchsorted(np.cumsum(mu), rng.random() * mu.sum(), side="right"))
    index = min(index, int(np.flatnonzero(mu)[-1]))
    rows = () if features is None else tuple(tuple(line) for line in features.tolist())
    return Choice(
        head=head,
        options=tuple(options),
        mask=tuple(mask.tolist()),
        mu=tuple(mu.tolist()),
        index=index,
        features=rows,
        prior=() if prior is None else tuple(prior.tolist()),
        value=() if value is None else tuple(value.tolist()),
    )
