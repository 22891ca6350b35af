"""A small standard decoder that keeps the contract: RMSNorm, RoPE, grouped heads, SwiGLU.

It is the example for program authors, the subject of the tests, and the model of the benchmark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightlab.kernels.kv.cache import KVCache
from nightlab.kernels.kv.contract import Attending, DecoderShape


@dataclass(frozen=True, kw_only=True)
class TinyShape:
    """Sizes of a :class:`TinyDecoder`."""

    vocabulary: int = 128
    layers: int = 3
    query_heads: int = 4
    kv_heads: int = 2
    head_dim: int = 24
    hidden: int = 256
    rotary_dim: int = 8
    """Leading channels of a head that are rotated; the rest match content at any distance."""
    theta: float = 100.0
    bias: bool = False
    """Whether queries and keys have a bias (as in Qwen2)."""

    @property
    def width(self) -> int:
        return self.query_heads * self.head_dim


def rotary(x_BHNd: Tensor, positions_N: Tensor, rotary_dim: int, theta: float) -> Tensor:
    """Rotary embedding on halves of the leading channels; negative positions undo positive ones."""
    half = rotary_dim // 2
    rate = theta ** (-torch.arange(half, device=x_BHNd.device, dtype=torch.float32) / half)
    angle = positions_N.float()[:, None] * rate
    cos, sin = angle.cos().to(x_BHNd.dtype), angle.sin().to(x_BHNd.dtype)
    a, b, rest = torch.split(x_BHNd, [half, half, x_BHNd.shape[-1] - 2 * half], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


class TinyLayer(nn.Module):
    """One pre-norm block."""

    def __init__(self, shape: TinyShape) -> None:
        super().__init__()
        self.shape = shape
        kv = shape.kv_heads * shape.head_dim
        self.norm_in, self.norm_mid = nn.RMSNorm(shape.width), nn.RMSNorm(shape.width)
        self.q = nn.Linear(shape.width, shape.width, bias=shape.bias)
        self.k = nn.Linear(shape.width, kv, bias=shape.bias)
        self.v = nn.Linear(shape.width, kv, bias=False)
        self.o = nn.Linear(shape.width, shape.width, bias=False)
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x_BND: Tensor, index: int, start: int, cache: Attending) -> Tensor:
        B, N, _ = x_BND.shape
        h = self.norm_in(x_BND)
        q, k, v = (
            m(h).view(B, N, -1, self.shape.head_dim).transpose(1, 2)
            for m in (self.q, self.k, self.v)
        )
        at = torch.arange(start, start + N, device=x_BND.device)
        turn = (at, self.shape.rotary_dim, self.shape.theta)
        q, k = rotary(q, *turn), rotary(k, *turn)
        out = cache.attend(index, q, k, v)
        x_BND = x_BND + self.o(out.transpose(1, 2).reshape(B, N, -1))
        h = self.norm_mid(x_BND)
        down: Tensor = self.down(F.silu(self.gate(h)) * self.up(h))
        return x_BND + down


class TinyDecoder(nn.Module):
    """Implements :class:`nightlab.kernels.kv.contract.Decoder`."""

    def __init__(self, shape: TinyShape) -> None:
        super().__init__()
        self.sizes = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(TinyLayer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=p.shape[-1] ** -0.5)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)

    @property
    def shape(self) -> DecoderShape:
        s = self.sizes
        return DecoderShape(
            layers=s.layers,
            query_heads=s.query_heads,
            kv_heads=s.kv_heads,
            head_dim=s.head_dim,
            width=s.width,
        )

    def init_cache(self, batch: int) -> KVCache:
        del batch  # rows are allocated when they come
        return KVCache(self.sizes.layers)

    def prefill(self, tokens_BN: Tensor, cache: KVCache) -> Tensor:
        return self.logits(self.run(self.embed(tokens_BN), cache)[:, -1])

    def step(self, tokens_B: Tensor, cache: KVCache) -> Tensor:
        return self.prefill(tokens_B[:, None], cache)

    def forward(self, tokens_BN: Tensor) -> Tensor:
        """Logits [B, N, V] of whole sequences, for training."""
        return self.logits(self.run(self.embed(tokens_BN), KVCache(self.sizes.layers)))

    def embed(self, tokens_BN: Tensor) -> Tensor:
        x: Tensor = self.embedding(tokens_BN)
        return x

    def run(self, x_BND: Tensor, cache: Attending) -> Tensor:
        start = cache.position
        for index, block in enumerate(self.blocks):
            x_BND = block(x_BND, index, start, cache)
        return x_BND

    def logits(self, x_BND: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(x_BND))
        return out

    def rotate(self, x_BHNd: Tensor, positions_N: Tensor) -> Tensor:
        return rotary(x_BHNd, positions_N, self.sizes.rotary_dim, self.sizes.theta)

    def linears(self) -> Sequence[Mapping[str, nn.Linear]]:
        roles = ("q", "k", "v", "o", "gate", "up", "down")
        return [{role: getattr(block, role) for role in roles} for block in self.blocks]
