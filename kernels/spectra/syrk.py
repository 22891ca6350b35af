"""Second-order moments of tokens, by Triton on a GPU and by torch elsewhere.

``centered_syrk`` and ``ffn_pair_moments`` have the twins of the same names in
:mod:`nightlab.kernels.spectra.reference`; ``path`` says which implementation a tensor takes.
Triton is imported only when a CUDA tensor arrives, so a CPU trainer does not pay for it.

Axes: N tokens, D width.
"""

from typing import Literal

import torch
from torch import Tensor

from nightlab.kernels.spectra import reference
from nightlab.kernels.spectra.reference import Activation, PairScatter, Scatter

Path = Literal["triton", "torch"]
BLOCKED_FROM = 512
"""Width from which the torch path computes the upper triangle by column blocks."""
BLOCKS = 4


def path(x: Tensor) -> Path:
    """Which implementation ``x`` takes: Triton for float32, float16 and bfloat16 on CUDA."""
    return "triton" if x.is_cuda and x.dtype != torch.float64 else "torch"


@torch.no_grad()
def centered_syrk(x_ND: Tensor) -> Scatter:
    """Count, mean [D] and centred scatter [D, D] of tokens [N, D], N >= 1.

    float32 results (float64 for float64 input). Inputs are centred before they are multiplied, so
    a large column mean costs no precision.
    """
    if path(x_ND) == "triton":
        from nightlab.kernels.spectra import triton_syrk

        return triton_syrk.centered_syrk(x_ND)
    if x_ND.shape[1] < BLOCKED_FROM:
        return reference.centered_syrk(x_ND)
    x_ND = x_ND if x_ND.dtype == torch.float64 else x_ND.float()
    mean_D = x_ND.mean(0, dtype=torch.float64).to(x_ND.dtype)
    return Scatter(x_ND.shape[0], mean_D, product(x_ND - mean_D))


@torch.no_grad()
def ffn_pair_moments(
    pre_ND: Tensor, activation: Activation, up_ND: Tensor | None = None
) -> PairScatter:
    """Moments before and after an activation, reading ``pre`` (and ``up``) once on a GPU.

    ``activation`` names the function applied to ``pre`` [N, D]; with ``up`` [N, D] the result is
    multiplied by it, as in a gated feed-forward.
    """
    if path(pre_ND) == "triton":
        from nightlab.kernels.spectra import triton_syrk

        return triton_syrk.ffn_pair_moments(pre_ND, activation, up_ND)
    return PairScatter(
        centered_syrk(pre_ND), centered_syrk(reference.activate(pre_ND, activation, up_ND))
    )


def gram(x_ND: Tensor) -> Tensor:
    """Gram matrix [N, N] of the tokens after centring each column."""
    return reference.gram(x_ND)


def product(y_ND: Tensor) -> Tensor:
    """y'y [D, D]; from width 512 on by column blocks of the upper triangle, mirrored."""
    d = y_ND.shape[1]
    if d < BLOCKED_FROM:
        return y_ND.T @ y_ND
    m2 = y_ND.new_empty(d, d)
    step = -(-d // BLOCKS)
    for start in range(0, d, step):
        stop = min(start + step, d)
        m2[start:stop, start:] = y_ND[:, start:stop].T @ y_ND[:, start:]
        m2[stop:, start:stop] = m2[start:stop, stop:].T
    return m2
