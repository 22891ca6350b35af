"""The actor and the critics as plain arrays: cheap to ask, without importing torch.

One small perceptron per head scores each option from its features and the context; a head's
logits are ``base * log prior + perceptron``. A fresh actor has base 1 and a last layer of zeros,
so it is exactly the prior. The critics foretell, for an option, the learning reward and the
entropic advantage; member k never saw fold k.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.policy.decisions import Head
from nightlab.agents.policy.draw import softmax
from nightlab.agents.policy.features import CONTEXT, OPTION_WIDTH
from nightlab.agents.policy.heads import Scored

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Weights = dict[str, Singles]

HEADS = tuple(Head)
INPUT = OPTION_WIDTH + len(CONTEXT)
HIDDEN = 64
CRITIC_HIDDEN = 48
MEMBERS = 5
FLOOR = 1e-3
"""Smallest prior probability whose logarithm enters the logits."""


def fresh(seed: int) -> Weights:
    """Weights of a policy that has learned nothing: the prior exactly."""
    rng = np.random.default_rng(seed)

    def layer(rows: int, columns: int) -> Singles:
        scaled = rng.standard_normal((rows, columns)) * np.sqrt(1.5 / rows)
        return np.asarray(scaled, dtype=np.float32)

    weights: Weights = {}
    for head in HEADS:
        weights[f"{head}.1"] = layer(INPUT, HIDDEN)
        weights[f"{head}.b1"] = np.zeros(HIDDEN, np.float32)
        weights[f"{head}.2"] = layer(HIDDEN, HIDDEN)
        weights[f"{head}.b2"] = np.zeros(HIDDEN, np.float32)
        weights[f"{head}.3"] = np.zeros((HIDDEN, 1), np.float32)
        weights[f"{head}.base"] = np.ones(1, np.float32)
    for member in range(MEMBERS):
        name = f"critic{member}"
        weights[f"{name}.1"] = layer(INPUT + len(HEADS), CRITIC_HIDDEN)
        weights[f"{name}.b1"] = np.zeros(CRITIC_HIDDEN, np.float32)
        weights[f"{name}.2"] = np.zeros((CRITIC_HIDDEN, 2), np.float32)
        weights[f"{name}.b2"] = np.zeros(2, np.float32)
    return weights


def log_prior(prior: Floats) -> Floats:
    """Logarithm of the prior with a floor, shape kept."""
    logs: Floats = np.log(np.maximum(prior, FLOOR))
    return logs


class NetworkScorer:
    """A head's distribution from the actor, its values from the critics."""

    def __init__(self, weights: Mapping[str, Singles]) -> None:
        self.weights = weights

    def score(
        self,
        head: Head,
        features: Floats,
        context: Floats,
        prior: Floats,
        mask: NDArray[np.bool_],
    ) -> Scored:
        base = float(self.weights[f"{head}.base"][0])
        logits = self.logits(head, features, context) + base * log_prior(prior)
        return Scored(softmax(logits, mask), self.values(head, join(features, context)))

    def logits(self, head: Head, features: Floats, context: Floats) -> Floats:
        """The perceptron's share of the logits, shape (options,)."""
        w = self.weights
        rows = join(features, context)
        hidden = np.maximum(rows @ w[f"{head}.1"] + w[f"{head}.b1"], 0.0)
        hidden = np.maximum(hidden @ w[f"{head}.2"] + w[f"{head}.b2"], 0.0)
        out: Floats = (hidden @ w[f"{head}.3"])[:, 0].astype(np.float64)
        return out

    def values(self, head: Head, rows: Floats) -> Floats:
        """Mean foretold advantage over the critics, shape (options,)."""
        w = self.weights
        kind = np.zeros((len(rows), len(HEADS)))
        kind[:, HEADS.index(head)] = 1.0
        rows = np.concatenate([rows, kind], axis=1)
        total = np.zeros(len(rows))
        for member in range(MEMBERS):
            name = f"critic{member}"
            hidden = np.maximum(rows @ w[f"{name}.1"] + w[f"{name}.b1"], 0.0)
            total += hidden @ w[f"{name}.2"][:, 1] + w[f"{name}.b2"][1]
        return np.round(total / MEMBERS, 4)


def join(features: Floats, context: Floats) -> Floats:
    """Options' features with the context beside each, shape (options, INPUT)."""
    return np.concatenate([features, np.broadcast_to(context, (len(features), len(context)))], 1)
