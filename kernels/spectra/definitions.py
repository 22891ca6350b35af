"""What the spectral scalars are: functions of the eigenvalues of a centred covariance.

Source: NerVE, arXiv 2603.06922, section 3 (entropy, participation ratio, early enrichment,
rank-aligned divergence); the bias-corrected participation ratio is the Himeno-Yamada form used
by Chun et al., arXiv 2509.26560. Natural logarithms throughout. Every guard is relative to the
largest eigenvalue, so that no scalar changes when the activations are rescaled.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

RELATIVE_FLOOR = 1e-5
"""A negative eigenvalue smaller than this share of the largest is rounding, and counts as zero."""


def ordered(values: Tensor) -> Tensor:
    """Eigenvalues [D] as float64 in descending order, rounding noise below zero set to zero.

    Raises ValueError on a non-finite eigenvalue, or one too negative to be rounding.
    """
    if values.ndim != 1 or values.numel() == 0:
        raise ValueError(f"expected a vector of eigenvalues, got shape {tuple(values.shape)}")
    lam = values.detach().to("cpu", torch.float64).sort(descending=True).values
    if not bool(torch.isfinite(lam).all()):
        raise ValueError("eigenvalues are not finite")
    if float(lam[-1]) < -RELATIVE_FLOOR * abs(float(lam[0])):
        raise ValueError(f"eigenvalue {float(lam[-1]):.3g} is negative beyond rounding")
    return lam.clamp_min(0.0)


def shares(values: Tensor) -> Tensor:
    """The spectrum as a distribution p_i = lambda_i / sum lambda, descending; nan if all are 0."""
    lam = ordered(values)
    largest = lam[0]
    lam = lam / largest
    return lam / lam.sum()


def spectral_entropy(values: Tensor, normalized: bool = False) -> float:
    """Entropy -sum p ln p in nats, within [0, ln D]; divided by ln D when ``normalized``.

    nan for constant activations (all eigenvalues zero).
    """
    p = shares(values)
    if bool(p.isnan().any()):
        return math.nan
    entropy = max(0.0, -float(torch.special.xlogy(p, p).sum()))
    return entropy / math.log(len(p)) if normalized and len(p) > 1 else entropy


def participation_ratio(values: Tensor) -> float:
    """(sum lambda)^2 / sum lambda^2, within [1, D]; nan for constant activations."""
    p = shares(values)
    return 1.0 / float(p.square().sum())


def early_enrichment(values: Tensor, ambient: int | None = None) -> float:
    """EEE = (2/D) sum_k (S_k - k/D), within [0, 1 - 1/D]; nan for constant activations.

    Computed as (D+1)/D - (2/D) sum_k k p_k over all D = ``ambient`` directions (default: as many
    as eigenvalues given); missing eigenvalues are zeros. Marbut et al., ICML 2023.
    """
    p = shares(values)
    d = ambient or len(p)
    if d < len(p):
        raise ValueError(f"{len(p)} eigenvalues do not fit in {d} directions")
    rank = torch.arange(1, len(p) + 1, dtype=p.dtype)
    return (d + 1) / d - (2 / d) * float(rank @ p)


def divergence(before: Tensor, after: Tensor) -> float:
    """Rank-aligned Jensen-Shannon divergence of two spectra in nats, within [0, ln 2).

    The k-th largest of one meets the k-th largest of the other; the shorter is padded with zeros.
    It ignores eigenvectors: a rotation scores 0. nan if either side is constant.
    """
    p, q = shares(before), shares(after)
    d = max(len(p), len(q))
    p = torch.nn.functional.pad(p, (0, d - len(p)))
    q = torch.nn.functional.pad(q, (0, d - len(q)))
    if bool(p.isnan().any() | q.isnan().any()):
        return math.nan
    mid = (p + q) / 2
    total = (
        torch.special.xlogy(p, p) + torch.special.xlogy(q, q) - 2 * torch.special.xlogy(mid, mid)
    )
    return max(0.0, float(total.sum()) / 2)


class Spread(NamedTuple):
    """What the participation ratio needs, and no eigenvalue: traces of a sample covariance S."""

    n: int
    """Tokens."""
    d: int
    """Width."""
    trace: float
    """tr S, with S divided by N - 1."""
    square: float
    """||S||_F^2 = tr S^2."""
    fourth: float
    """Q = sum_i ||x_i - mean||^4 / (N - 1)."""

    def participation_ratio(self) -> float:
        """(tr S)^2 / ||S||_F^2, low by about 1/PR + 1/N; nan for constant activations."""
        return self.trace**2 / self.square if self.square > 0 else math.nan

    def corrected_participation_ratio(self) -> float:
        """Ratio of unbiased estimates of (tr Sigma)^2 and tr Sigma^2 (arXiv 2509.26560).

        nan where the denominator's estimate is not positive (far too few tokens), or where the
        activations are constant. Raises ValueError for N < 4, where neither estimate exists.
        """
        n = self.n
        if n < 4:
            raise ValueError(f"the corrected participation ratio needs 4 tokens, got {n}")
        if not self.square > 0:
            return math.nan
        t2, f = 1.0, self.square / self.trace**2
        nq = n * self.fourth / self.trace**2
        trace_square = (n - 1) * (n - 2) * f + t2 - nq
        square_trace = 2 * f + (n * n - 3 * n + 1) * t2 - nq
        return square_trace / trace_square if trace_square > 0 else math.nan
