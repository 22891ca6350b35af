"""Variants of the norm: B batch, T tokens, D width."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RmsNorm(nn.Module):
    """Root-mean-square norm with a gain.

    Why: Centring and the bias are dead weight; dropping them buys steps.
    From: Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        return F.rms_norm(x_BTD, (x_BTD.shape[-1],), self.gain, 1e-6)


class RmsPlain(nn.Module):
    """Root-mean-square norm without a gain.

    Why: The next linear map can learn the gain; fewer small tensors make a faster step.
    From: Jordan et al. 2024 (modded-nanoGPT)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x_BTD: Tensor) -> Tensor:
        return F.rms_norm(x_BTD, (self.width,), eps=1e-6)


class DynamicTanh(nn.Module):
    """A bounded squash with a learned slope in place of a norm.

    Why: A norm's main work is to tame large values, which a tanh does without statistics.
    From: Zhu et al. 2025, arXiv 2503.10622, eq. 1
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((1,), 0.5))
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        return torch.tanh(self.slope * x_BTD) * self.gain + self.bias


class Affine(nn.Module):
    """No normalisation: a gain per channel that starts at two, and a bias.

    Why: A network this shallow may train without norms, and each one left out buys steps.
    From: Touvron et al. 2021, arXiv 2105.03404
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((width,), 2.0))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD * self.gain + self.bias


class LayerNormPlain(nn.Module):
    """Layer norm without gain and bias.

    Why: Gain and bias overfit early and cost a step's time; centring and scaling do the work.
    From: Xu et al. 2019, arXiv 1911.07013 (LayerNorm-simple)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x_BTD: Tensor) -> Tensor:
        return F.layer_norm(x_BTD, (self.width,))
