"""Plain-PyTorch twins of the spectra kernels: the specification, on any device.

Axes: N tokens, D width.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

Activation = Literal["identity", "relu", "relu2", "silu", "gelu", "gelu_tanh"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


class Scatter(NamedTuple):
    """Second-order moments of a block of tokens."""

    n: int
    mean: Tensor
    """[D], float32 (float64 for float64 input)."""
    m2: Tensor
    """sum (x - mean)(x - mean)', [D, D], same type as the mean."""


class PairScatter(NamedTuple):
    """Moments before and after the activation of one feed-forward."""

    pre: Scatter
    post: Scatter


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def centered_syrk(x_ND: Tensor) -> Scatter:
    """Count, column mean and centred scatter of tokens [N, D]."""
    x_ND = _wide(x_ND)
    mean_D = x_ND.mean(0, dtype=torch.float64).to(x_ND.dtype)
    y_ND = x_ND - mean_D
    return Scatter(x_ND.shape[0], mean_D, y_ND.T @ y_ND)


def activate(pre_ND: Tensor, activation: Activation, up_ND: Tensor | None = None) -> Tensor:
    """sigma(pre), times ``up`` where the feed-forward is gated; float32 or wider."""
    post_ND = _FUNCTIONS[activation](_wide(pre_ND))
    return post_ND if up_ND is None else post_ND * _wide(up_ND)


def ffn_pair_moments(
    pre_ND: Tensor, activation: Activation, up_ND: Tensor | None = None
) -> PairScatter:
    """Moments of ``pre`` and of ``sigma(pre) * up``, both [N, D]."""
    return PairScatter(centered_syrk(pre_ND), centered_syrk(activate(pre_ND, activation, up_ND)))


def gram(x_ND: Tensor) -> Tensor:
    """Gram matrix [N, N] of the tokens after centring each column."""
    x_ND = _wide(x_ND)
    y_ND = x_ND - x_ND.mean(0, dtype=torch.float64).to(x_ND.dtype)
    return y_ND @ y_ND.T
