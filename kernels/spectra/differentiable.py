"""Spectral scalars of a covariance as differentiable functions, for studies of regularisers.

Gradients are analytic (nothing is differentiated through an eigendecomposition, which is unstable
at repeated eigenvalues): participation ratio and entropy are smooth spectral functions, early
enrichment is smooth almost everywhere. Probes do not need this module; they run without gradients.

Axes: D width. S is the centred covariance [D, D].
"""

# mypy: disable-error-code="no-untyped-call,no-any-return"
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

FLOOR = 1e-12
"""Shares of the spectrum below this count as this in a logarithm."""


class _ParticipationRatio(Function):
    @staticmethod
    def forward(ctx: Any, S: Tensor) -> Tensor:
        trace, square = S.diagonal().sum(), S.square().sum()
        ctx.save_for_backward(S, trace, square)
        return trace.square() / square

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        S, trace, square = ctx.saved_tensors
        eye = torch.eye(len(S), dtype=S.dtype, device=S.device)
        return grads[0] * (2 * trace / square * eye - 2 * (trace / square).square() * S)


class _Lifted(Function):
    """A scalar of the eigenvalues whose gradient is U diag(slope) U'."""

    @staticmethod
    def scalar(p_D: Tensor) -> tuple[Tensor, Tensor]:
        """Value, and its slope by each eigenvalue times the trace, from descending shares."""
        raise NotImplementedError

    @classmethod
    def forward(cls, ctx: Any, S: Tensor) -> Tensor:
        lam_D, U = torch.linalg.eigh(S)
        lam_D, U = lam_D.flip(0).clamp_min(0), U.flip(1)
        trace = lam_D.sum()
        value, slope_D = cls.scalar(lam_D / trace)
        ctx.save_for_backward(U, slope_D / trace)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        U, slope_D = ctx.saved_tensors
        return grads[0] * (U * slope_D) @ U.T


class _Entropy(_Lifted):
    @staticmethod
    def scalar(p_D: Tensor) -> tuple[Tensor, Tensor]:
        entropy = -torch.special.xlogy(p_D, p_D).sum()
        return entropy, -(p_D.clamp_min(FLOOR).log() + entropy)


class _Enrichment(_Lifted):
    @staticmethod
    def scalar(p_D: Tensor) -> tuple[Tensor, Tensor]:
        d = len(p_D)
        rank = torch.arange(1, d + 1, dtype=p_D.dtype, device=p_D.device)
        mean_rank = rank @ p_D
        return (d + 1) / d - 2 / d * mean_rank, -2 / d * (rank - mean_rank)


def covariance(x_ND: Tensor) -> Tensor:
    """Centred, unbiased covariance [D, D] of tokens [N, D], with its gradient."""
    y_ND = x_ND - x_ND.mean(0)
    return y_ND.T @ y_ND / (len(x_ND) - 1)


def participation_ratio(S: Tensor) -> Tensor:
    """(tr S)^2 / ||S||_F^2 with its gradient (2T/F) I - (2T^2/F^2) S."""
    value: Tensor = _ParticipationRatio.apply(S)
    return value


def spectral_entropy(S: Tensor) -> Tensor:
    """Entropy in nats with its gradient U diag(-(ln p + SE)/T) U'."""
    value: Tensor = _Entropy.apply(S)
    return value


def early_enrichment(S: Tensor) -> Tensor:
    """EEE with its gradient U diag(-(2/(D T)) (j - sum k p_k)) U'."""
    value: Tensor = _Enrichment.apply(S)
    return value
