"""Triton kernels for second-order moments; import this only where Triton can run.

One program computes one tile of the upper triangle over one share of the tokens: partial sums
are written apart and added afterwards, so results do not depend on the order of programs. Tokens
are shifted by an estimate of the mean before they are multiplied; the exact mean is restored from
the column sums.

Axes: N tokens, D width, S shares of the tokens.
"""

# mypy: disable-error-code="import-untyped,untyped-decorator,no-untyped-def,no-untyped-call"
import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from nightlab.kernels.spectra import reference
from nightlab.kernels.spectra.reference import ACTIVATIONS, Activation, PairScatter, Scatter

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TILE = 64
"""Columns of one side of a tile."""
CHUNK = 32
"""Tokens taken in one step."""
PROGRAMS = 264
"""How many programs fill a large GPU twice over; the tokens are shared out to reach it."""


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == 0:
        y = x
    elif ACTIVATION == 1:
        y = tl.maximum(x, 0.0)
    elif ACTIVATION == 2:
        r = tl.maximum(x, 0.0)
        y = r * r
    elif ACTIVATION == 3:
        y = x * tl.sigmoid(x)
    elif ACTIVATION == 4:
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        y = x * tl.sigmoid(2.0 * inner)
    return y


@triton.jit
def _product(a, b, HALF: tl.constexpr):
    if HALF:
        return tl.dot(tl.trans(a).to(tl.bfloat16), b.to(tl.bfloat16))
    return tl.dot(tl.trans(a), b, input_precision="tf32x3")


@triton.jit
def scatter_kernel(
    x, shift, tile_i, tile_j, parts, sums, n, d, stride, share,
    TILE: tl.constexpr, CHUNK: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    tile, s = tl.program_id(0), tl.program_id(1)
    i, j = tl.load(tile_i + tile), tl.load(tile_j + tile)
    cols_i = i * TILE + tl.arange(0, TILE)
    cols_j = j * TILE + tl.arange(0, TILE)
    in_i, in_j = cols_i < d, cols_j < d
    shift_i = tl.load(shift + cols_i, mask=in_i, other=0.0)
    shift_j = tl.load(shift + cols_j, mask=in_j, other=0.0)
    acc = tl.zeros((TILE, TILE), tl.float32)
    col = tl.zeros((TILE,), tl.float32)
    for start in range(s * share, tl.minimum(n, (s + 1) * share), CHUNK):
        rows = start + tl.arange(0, CHUNK)
        live = rows < tl.minimum(n, (s + 1) * share)
        at = rows.to(tl.int64)[:, None] * stride
        on_i, on_j = live[:, None] & in_i[None, :], live[:, None] & in_j[None, :]
        a = tl.load(x + at + cols_i[None, :], mask=on_i, other=0.0).to(tl.float32)
        b = tl.load(x + at + cols_j[None, :], mask=on_j, other=0.0).to(tl.float32)
        a = tl.where(on_i, a - shift_i[None, :], 0.0)
        b = tl.where(on_j, b - shift_j[None, :], 0.0)
        acc += _product(a, b, HALF)
        col += tl.sum(b, 0)
    out = parts + s.to(tl.int64) * d * d + cols_i[:, None].to(tl.int64) * d + cols_j[None, :]
    tl.store(out, acc, mask=in_i[:, None] & in_j[None, :])
    tl.store(sums + s * d + cols_j, col, mask=in_j & (cols_i == cols_j))


@triton.jit
def pair_kernel(
    x, up, shift, shift_post, tile_i, tile_j, parts, sums, parts_post, sums_post,
    n, d, stride, stride_up, share,
    ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    tile, s = tl.program_id(0), tl.program_id(1)
    i, j = tl.load(tile_i + tile), tl.load(tile_j + tile)
    cols_i = i * TILE + tl.arange(0, TILE)
    cols_j = j * TILE + tl.arange(0, TILE)
    in_i, in_j = cols_i < d, cols_j < d
    shift_i = tl.load(shift + cols_i, mask=in_i, other=0.0)
    shift_j = tl.load(shift + cols_j, mask=in_j, other=0.0)
    post_i = tl.load(shift_post + cols_i, mask=in_i, other=0.0)
    post_j = tl.load(shift_post + cols_j, mask=in_j, other=0.0)
    acc = tl.zeros((TILE, TILE), tl.float32)
    acc_post = tl.zeros((TILE, TILE), tl.float32)
    col = tl.zeros((TILE,), tl.float32)
    col_post = tl.zeros((TILE,), tl.float32)
    for start in range(s * share, tl.minimum(n, (s + 1) * share), CHUNK):
        rows = start + tl.arange(0, CHUNK)
        live = rows < tl.minimum(n, (s + 1) * share)
        at = rows.to(tl.int64)[:, None] * stride
        on_i, on_j = live[:, None] & in_i[None, :], live[:, None] & in_j[None, :]
        a = tl.load(x + at + cols_i[None, :], mask=on_i, other=0.0).to(tl.float32)
        b = tl.load(x + at + cols_j[None, :], mask=on_j, other=0.0).to(tl.float32)
        a_post, b_post = _activate(a, ACTIVATION), _activate(b, ACTIVATION)
        if GATED:
            at_up = rows.to(tl.int64)[:, None] * stride_up
            a_post *= tl.load(up + at_up + cols_i[None, :], mask=on_i, other=0.0).to(tl.float32)
            b_post *= tl.load(up + at_up + cols_j[None, :], mask=on_j, other=0.0).to(tl.float32)
        a = tl.where(on_i, a - shift_i[None, :], 0.0)
        b = tl.where(on_j, b - shift_j[None, :], 0.0)
        a_post = tl.where(on_i, a_post - post_i[None, :], 0.0)
        b_post = tl.where(on_j, b_post - post_j[None, :], 0.0)
        acc += _product(a, b, HALF)
        acc_post += _product(a_post, b_post, HALF)
        col += tl.sum(b, 0)
        col_post += tl.sum(b_post, 0)
    at_out = s.to(tl.int64) * d * d + cols_i[:, None].to(tl.int64) * d + cols_j[None, :]
    inside = in_i[:, None] & in_j[None, :]
    tl.store(parts + at_out, acc, mask=inside)
    tl.store(parts_post + at_out, acc_post, mask=inside)
    tl.store(sums + s * d + cols_j, col, mask=in_j & (cols_i == cols_j))
    tl.store(sums_post + s * d + cols_j, col_post, mask=in_j & (cols_i == cols_j))


def pair_warps(half: bool) -> int:
    """Warps of the pair kernel: three products for each float32 one need twice the registers."""
    return 4 if half else 8


def pair_chunk(half: bool) -> int:
    """Tokens that the pair kernel takes in one step."""
    return CHUNK if half else CHUNK // 2


class _Plan:
    """Tiles of the upper triangle, shares of the tokens, and room for the partial sums."""

    def __init__(self, x_ND: Tensor) -> None:
        n, d = x_ND.shape
        tiles = -(-d // TILE)
        upper = torch.triu_indices(tiles, tiles, dtype=torch.int32, device=x_ND.device)
        self.tile_i, self.tile_j = upper[0].contiguous(), upper[1].contiguous()
        wanted = max(1, PROGRAMS // self.tile_i.numel())
        chunks = -(-n // CHUNK)
        self.share = CHUNK * -(-chunks // min(wanted, chunks))
        self.shares = -(-n // self.share)
        self.grid = (self.tile_i.numel(), self.shares)
        self.half = x_ND.dtype != torch.float32 and not INTERPRETED

    def room(self, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Partial products [S, D, D] and column sums [S, D], float32."""
        parts = torch.empty(self.shares, d, d, device=device)
        return parts, torch.empty(self.shares, d, device=device)


def centered_syrk(x_ND: Tensor) -> Scatter:
    """Triton twin of :func:`nightlab.kernels.spectra.reference.centered_syrk`."""
    x_ND = _rows(x_ND)
    n, d = x_ND.shape
    plan = _Plan(x_ND)
    shift = x_ND[:CHUNK].float().mean(0)
    parts, sums = plan.room(d, x_ND.device)
    scatter_kernel[plan.grid](
        x_ND, shift, plan.tile_i, plan.tile_j, parts, sums, n, d, x_ND.stride(0), plan.share,
        TILE=TILE, CHUNK=CHUNK, HALF=plan.half, num_warps=4, num_stages=3,
    )  # fmt: skip
    return _finish(n, shift, parts, sums)


def ffn_pair_moments(
    pre_ND: Tensor, activation: Activation, up_ND: Tensor | None = None
) -> PairScatter:
    """Triton twin of :func:`nightlab.kernels.spectra.reference.ffn_pair_moments`."""
    pre_ND = _rows(pre_ND)
    up = pre_ND if up_ND is None else _rows(up_ND)
    n, d = pre_ND.shape
    plan = _Plan(pre_ND)
    first_up = None if up_ND is None else up[:CHUNK]
    shift = pre_ND[:CHUNK].float().mean(0)
    shift_post = reference.activate(pre_ND[:CHUNK], activation, first_up).mean(0)
    parts, sums = plan.room(d, pre_ND.device)
    parts_post, sums_post = plan.room(d, pre_ND.device)
    pair_kernel[plan.grid](
        pre_ND, up, shift, shift_post, plan.tile_i, plan.tile_j, parts, sums, parts_post,
        sums_post, n, d, pre_ND.stride(0), up.stride(0), plan.share,
        ACTIVATION=ACTIVATIONS.index(activation), GATED=up_ND is not None,
        TILE=TILE, CHUNK=pair_chunk(plan.half), HALF=plan.half,
        num_warps=pair_warps(plan.half), num_stages=2,
    )  # fmt: skip
    pre = _finish(n, shift, parts, sums)
    return PairScatter(pre, _finish(n, shift_post, parts_post, sums_post))


def _rows(x_ND: Tensor) -> Tensor:
    x_ND = x_ND.detach()
    return x_ND if x_ND.stride(1) == 1 else x_ND.contiguous()


def _finish(n: int, shift_D: Tensor, parts_SDD: Tensor, sums_SD: Tensor) -> Scatter:
    """Add the shares, mirror the triangle, and move from the shift to the exact mean."""
    upper = parts_SDD.sum(0).triu()
    offset_D = sums_SD.sum(0) / n
    m2 = upper + upper.triu(1).T - n * torch.outer(offset_D, offset_D)
    return Scatter(n, shift_D + offset_D, m2)
