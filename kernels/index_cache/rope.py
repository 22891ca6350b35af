"""Rotary positions on the first dimensions of a head, in both layouts that model families use."""

from typing import Literal

import torch
from torch import Tensor

Rope = Literal["none", "half", "interleaved"]


def rotate(x: Tensor, positions_T: Tensor, width: int, layout: Rope, base: float = 1e4) -> Tensor:
    """Rotate the first ``width`` dims of x [..., T, D] (or [..., T, I, D] with positions [T, 1]).

    ``half`` pairs dim i with i + width/2, ``interleaved`` 2i with 2i + 1, ``none`` is identity.
    """
    if layout == "none":
        return x
    rate = base ** (-torch.arange(0, width, 2, device=x.device, dtype=torch.float32) / width)
    angle = positions_T[..., None].float() * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    turned, rest = x[..., :width], x[..., width:]
    if layout == "half":
        a, b = turned.chunk(2, -1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos, rest), -1)
    a, b = turned[..., ::2], turned[..., 1::2]
    pairs = torch.stack((a * cos - b * sin, a * sin + b * cos), -1)
    return torch.cat((pairs.flatten(-2), rest), -1)
