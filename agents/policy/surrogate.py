"""The campaign's own history as a model: what an untried program would score, and how sure.

A Gaussian process over the variants that programs are made of. Scores enter as normal quantiles
of their ranks, so shifts, scale and outliers of the metric change nothing. With s(a, b) the mean
over parts of the similarity of two variants (1 where equal; exp(-distance) along a dial),

    k(a, b) = w * s(a, b) * P / min(P, span) + (1 - w) * exp(-(1 - s(a, b)) * P / length)

the first term learns how parts add up, the second what stays near a known program. An edit is
worth as much variance in a space of thirty parts as in one of eight: without ``span`` a part that
was never touched could change next to nothing, and was never tried. Between rungs
the kernel is multiplied by a correlation below 1. The model is a feature of the policy, never a
judge: what is kept is decided by measurements.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.special import ndtri

from nightlab.agents.policy.archive import Archive
from nightlab.agents.policy.ranks import mid_ranks

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Fixed on NAS-Bench-201 CIFAR-10 only (docs/bench-search.md)."""

    additive: float = 0.6
    """w: share of the variance that parts explain one by one."""
    length: float = 2.0
    """Edits after which the local term has fallen to 1/e."""
    span: float = 8.0
    """Edits that the additive term's variance is spread over, where there are more parts."""
    noise: float = 0.03
    """Variance of one look, in units of the rank scores; grows with the noise floor."""
    rung_correlation: float = 0.9
    """Correlation of a program's scores on two rungs."""
    rows: int = 256
    """Most observations kept: the best and the latest halves. Bounds the cost of one fit."""


@dataclass(frozen=True)
class Posterior:
    """Belief about programs, in rank scores (standard normal over the archive)."""

    mean: Floats
    deviation: Floats


def rank_scores(rewards: Floats) -> Floats:
    """Normal quantiles of the ranks, shape kept; ties share their mean rank."""
    scores: Floats = ndtri((mid_ranks(rewards) - 0.5) / len(rewards))
    return scores


def embedding(sizes: list[int], ordered: list[bool], length: float = 1.5) -> list[Floats]:
    """Per part a matrix whose rows' inner products are the similarities of its variants."""
    tables = []
    for size, dial in zip(sizes, ordered, strict=True):
        table = np.eye(size)
        if dial:
            steps = np.abs(np.arange(size)[:, None] - np.arange(size)[None, :])
            table = np.linalg.cholesky(np.exp(-steps / length) + 1e-9 * np.eye(size))
        tables.append(table)
    return tables


class Surrogate:
    """Fitted to an archive once; asked about many programs."""

    def __init__(
        self,
        codes: Codes,
        scores: Floats,
        rungs: Codes,
        tables: list[Floats],
        kernel: Kernel,
        noise: float = 0.0,
    ) -> None:
        self.kernel = kernel
        self.tables = tables
        self.rows = self._embed(codes)
        self.rungs = rungs
        self.mean = float(scores.mean())
        gram = self._covariance(self.rows, self.rungs)
        gram[np.diag_indices_from(gram)] += kernel.noise + noise**2
        factor, _ = lapack.dpotrf(gram, lower=1, clean=1)
        self.inverse_factor: Floats = lapack.dtrtri(factor, lower=1)[0]
        centred = scores - self.mean
        whitened = self.inverse_factor @ centred
        self.weights: Floats = self.inverse_factor.T @ whitened
        self.scores = scores
        self.best = float(scores.max())

    @classmethod
    def of(cls, archive: Archive, kernel: Kernel, noise: float = 0.0) -> "Surrogate | None":
        """Fit to the valid attempts of an archive; None while there are fewer than four.

        ``noise`` is the noise floor in the unit of the reward.
        """
        rows = [row for row, attempt in enumerate(archive.attempts) if attempt.reward is not None]
        if len(rows) < 4:
            return None
        rewards = archive.rewards(rows)
        names = {rung: code for code, rung in enumerate(reversed(archive.menu.rungs))}
        rungs = np.array([names.get(archive.attempts[row].rung, 0) for row in rows], dtype=np.int64)
        scores = np.empty(len(rows))
        for rung in np.unique(rungs):
            scores[rungs == rung] = rank_scores(rewards[rungs == rung])
        keep = _informative(scores, kernel.rows)
        spread = float(np.std(rewards)) or 1.0
        parts = archive.menu.parts
        tables = embedding(archive.sizes(), [part.ordered for part in parts])
        codes = np.array([archive.codes[row] for row in rows], dtype=np.int64)
        return cls(codes[keep], scores[keep], rungs[keep], tables, kernel, noise / spread)

    def predict(self, codes: Codes, rung: int = 0) -> Posterior:
        """Belief about programs, ``codes`` of shape (programs, parts); rung 0 is the full one."""
        if not len(codes):
            return Posterior(np.zeros(0), np.zeros(0))
        rungs = np.full(len(codes), rung, dtype=np.int64)
        cross = self._covariance(self._embed(codes), rungs, self.rows, self.rungs)
        explained = np.square(cross @ self.inverse_factor.T).sum(axis=1)
        prior = self.kernel.additive * self._scale + 1.0 - self.kernel.additive
        deviation = np.sqrt(np.maximum(prior - explained, 1e-6))
        return Posterior(self.mean + cross @ self.weights, deviation)

    def trust(self) -> float:
        """How well each score is foretold from the others (leave-one-out correlation), [-1, 1]."""
        precision = np.square(self.inverse_factor).sum(axis=0)
        residual = self.weights / precision
        foretold = self.scores - residual
        if foretold.std() < 1e-9 or self.scores.std() < 1e-9:
            return 0.0
        return float(np.corrcoef(foretold, self.scores)[0, 1])

    def _embed(self, codes: Codes) -> Floats:
        # an unknown part (-1) is like nothing else, itself included
        blocks = [
            np.where(codes[:, [part]] >= 0, table[np.maximum(codes[:, part], 0)], 0.0)
            for part, table in enumerate(self.tables)
        ]
        return np.concatenate(blocks, axis=1)

    @property
    def _scale(self) -> float:
        """Variance of the additive term over that of a space of ``span`` parts or fewer."""
        parts = max(len(self.tables), 1)
        return parts / min(parts, self.kernel.span)

    def _covariance(
        self,
        left: Floats,
        left_rungs: Codes,
        right: Floats | None = None,
        right_rungs: Codes | None = None,
    ) -> Floats:
        right = left if right is None else right
        right_rungs = left_rungs if right_rungs is None else right_rungs
        parts = max(len(self.tables), 1)
        alike = (left @ right.T) / parts
        w = self.kernel.additive
        near = np.exp((alike - 1.0) * (parts / self.kernel.length))
        gram: Floats = w * self._scale * alike + (1.0 - w) * near
        if left_rungs.any() or right_rungs.any():
            same = left_rungs[:, None] == right_rungs[None, :]
            gram = gram * np.where(same, 1.0, self.kernel.rung_correlation)
        return gram


def _informative(scores: Floats, limit: int) -> NDArray[np.int64]:
    """Indices of the best and the latest, at most ``limit`` of them, in order."""
    count = len(scores)
    if count <= limit:
        return np.arange(count)
    best = np.argsort(-scores, kind="stable")[: limit // 2]
    rest = np.setdiff1d(np.arange(count), best)
    return np.union1d(best, rest[len(best) - limit :])
