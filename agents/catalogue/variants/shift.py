"""Variants of the shift: what each token sees of its predecessors before attention.

B batch, T tokens, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nightlab.evals.tasks.byte_lm.program import Recipe


class HalfShift(nn.Module):
    """Half of the channels come from the token before.

    Why: Pairs of bytes are seen in the first layer, at no parameters and almost no time.
    From: Peng 2021 (RWKV token shift), arXiv 2305.13048
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.moved = recipe.width // 2

    def forward(self, x_BTD: Tensor) -> Tensor:
        before_BTD = F.pad(x_BTD[:, :-1, : self.moved], (0, 0, 1, 0))
        return torch.cat((before_BTD, x_BTD[..., self.moved :]), -1)


class LearnedShift(nn.Module):
    """Each channel mixes this token with the one before, in a learned proportion.

    Why: How much of the past a channel needs is for the data to say.
    From: Peng et al. 2023, arXiv 2305.13048 (RWKV), eq. 11
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.linspace(0.0, 1.0, recipe.width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        before_BTD = F.pad(x_BTD[:, :-1], (0, 0, 1, 0))
        return torch.lerp(x_BTD, before_BTD, self.mix)


class ShortConvolution(nn.Module):
    """A causal convolution over four tokens, channel by channel, added to the token itself.

    Why: Local patterns are cheap to match by place; attention is left with the far ones.
    From: So et al. 2021, arXiv 2109.08668 (Primer); Allen-Zhu 2025 (Canon layers)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, recipe.width) * 0.2)

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD = x_BTD * (1 + self.kernel[0])
        for back in range(1, min(4, x_BTD.shape[1])):
            y_BTD = y_BTD + F.pad(x_BTD[:, :-back], (0, 0, back, 0)) * self.kernel[back]
        return y_BTD


class Smear(nn.Module):
    """Each token adds as much of the one before as a gate on its own content lets through.

    Why: Whether the predecessor matters depends on the byte.
    From: Olsson et al. 2022 (smeared keys); Jordan et al. 2024 (modded-nanoGPT)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.gate = nn.Linear(recipe.width, 1, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        before_BTD = F.pad(x_BTD[:, :-1], (0, 0, 1, 0))
        return x_BTD + torch.sigmoid(self.gate(x_BTD)) * before_BTD


class Ladder(nn.Module):
    """Quarters of the channels come from this token and the three before it.

    Why: Four bytes lie side by side from the first layer, at no parameters.
    From: a longer variation on RWKV's token shift, arXiv 2305.13048
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()

    def forward(self, x_BTD: Tensor) -> Tensor:
        length = x_BTD.shape[1]
        quarters = x_BTD.chunk(4, -1)
        back = [F.pad(part, (0, 0, i, 0))[:, :length] for i, part in enumerate(quarters)]
        return torch.cat(back, -1)
