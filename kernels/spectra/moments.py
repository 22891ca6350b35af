"""Streaming moments of activations, and the spectra that come from moments or from samples.

Updates and merges follow Chan et al. (1983): never E[xx'] - mm', which loses a covariance beside
a large mean. The third and fourth moments that the corrected participation ratio needs are
carried along exactly, so a merge of shards equals one pass.

Axes: N tokens, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from nightlab.kernels.spectra import definitions, syrk
from nightlab.kernels.spectra.definitions import Spread

Method = Literal["auto", "eig", "gram"]


class Moments:
    """Count, mean [D], scatter M2 [D, D] = sum (x-m)(x-m)', and what PR's correction needs.

    ``update`` takes [..., D] of any float type; accumulation is float32 for M2 (or the ``dtype``
    given) and float64 for the vectors.
    """

    def __init__(
        self, d: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        self.d = d
        self.n = 0
        self.mean = torch.zeros(d, dtype=torch.float64, device=device)
        self.m2 = torch.zeros(d, d, dtype=dtype, device=device)
        self.third = torch.zeros(d, dtype=torch.float64, device=device)
        """sum ||x-m||^2 (x-m), [D]."""
        self.fourth = torch.zeros((), dtype=torch.float64, device=device)
        """sum ||x-m||^4."""

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take in tokens [..., D]."""
        x_ND = x.detach().reshape(-1, x.shape[-1])
        if x_ND.shape[1] != self.d:
            raise ValueError(f"expected width {self.d}, got {x_ND.shape[1]}")
        if x_ND.shape[0]:
            self._absorb(Moments.of(x_ND, dtype=self.m2.dtype))

    @classmethod
    @torch.no_grad()
    def of(cls, x_ND: Tensor, *, dtype: torch.dtype = torch.float32) -> "Moments":
        """The moments of one block [N, D] with N >= 1."""
        x_ND = x_ND.detach()
        moments = cls(x_ND.shape[1], dtype=dtype, device=x_ND.device)
        block = syrk.centered_syrk(x_ND if x_ND.dtype == torch.bfloat16 else x_ND.to(dtype))
        moments.n, moments.mean, moments.m2 = block.n, block.mean.double(), block.m2.to(dtype)
        y_ND = x_ND.to(dtype) - moments.mean.to(dtype)
        r_N = y_ND.square().sum(1).double()
        moments.third = (r_N.to(dtype) @ y_ND).double()
        moments.fourth = r_N.square().sum()
        return moments

    def merge(self, other: "Moments") -> "Moments":
        """Both together, as if all tokens had been seen by one; neither operand changes."""
        if self.d != other.d:
            raise ValueError(f"cannot merge moments of widths {self.d} and {other.d}")
        merged = Moments(self.d, dtype=self.m2.dtype, device=self.m2.device)
        merged._absorb(self)
        merged._absorb(other)
        return merged

    def _absorb(self, other: "Moments") -> None:
        n = self.n + other.n
        if n == 0:
            return
        mean = self.mean + (other.mean - self.mean) * (other.n / n)
        pairs = zip(self._about(mean), other._about(mean), strict=True)
        self.m2, self.third, self.fourth = (mine + theirs for mine, theirs in pairs)
        self.n, self.mean = n, mean

    def _about(self, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """M2, third and fourth sums taken about another mean: y + e with e = own mean - mean."""
        e = self.mean - mean
        m2_e = (self.m2 @ e.to(self.m2.dtype)).double()
        trace, ee = self.m2.diagonal().double().sum(), e @ e
        m2 = self.m2 + self.n * torch.outer(e, e).to(self.m2.dtype)
        third = self.third + trace * e + 2 * m2_e + self.n * ee * e
        fourth = self.fourth + 4 * e @ self.third + 2 * ee * trace + 4 * e @ m2_e + self.n * ee * ee
        return m2, third, fourth

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Merge the moments of all ranks of a process group, in place on each.

        The means are reduced first, every rank moves its sums to the common mean, and the sums
        are reduced once.
        """
        count = torch.tensor(float(self.n), dtype=torch.float64, device=self.mean.device)
        total = self.mean * self.n
        dist.all_reduce(count, group=group)
        dist.all_reduce(total, group=group)
        mean = total / count.clamp_min(1.0)
        sums = self._about(mean) if self.n else (self.m2, self.third, self.fourth)
        for each in sums:
            dist.all_reduce(each, group=group)
        self.n, self.mean = int(count), mean
        self.m2, self.third, self.fourth = sums

    def covariance(self) -> Tensor:
        """Centred, unbiased covariance [D, D]; ValueError for fewer than 2 tokens."""
        if self.n < 2:
            raise ValueError(f"a covariance needs 2 tokens, got {self.n}")
        return self.m2 / (self.n - 1)


def spread(source: Moments | Tensor) -> Spread:
    """Traces of the covariance of moments or of tokens [N, D], without eigenvalues.

    O(N D min(N, D)): the smaller of covariance and Gram matrix. ValueError for N < 2 or
    non-finite activations.
    """
    if isinstance(source, Moments):
        return _spread_of_moments(source)
    return _reduced(source).spread


def _spread_of_moments(m: Moments) -> Spread:
    if m.n < 2:
        raise ValueError(f"a covariance needs 2 tokens, got {m.n}")
    trace = float(m.m2.diagonal().double().sum()) / (m.n - 1)
    if not torch.isfinite(torch.tensor(trace)):
        raise ValueError("activations are not finite")
    if trace == 0:
        return Spread(m.n, m.d, 0.0, 0.0, 0.0)
    norm = float(
        torch.linalg.vector_norm((m.m2 / (trace * (m.n - 1))).flatten(), dtype=torch.float64)
    )
    return Spread(m.n, m.d, trace, (norm * trace) ** 2, float(m.fourth) / (m.n - 1))


@dataclass(frozen=True)
class Spectrum:
    """All D eigenvalues of a sample covariance, and the traces for the corrected PR."""

    values: Tensor
    """Eigenvalues [D], float64, descending, padded with zeros where N <= D."""
    spread: Spread

    @property
    def n(self) -> int:
        """Tokens."""
        return self.spread.n

    @property
    def d(self) -> int:
        """Width."""
        return self.spread.d


def spectrum(source: Moments | Tensor, method: Method = "auto") -> Spectrum:
    """The spectrum of moments or of tokens [N, D].

    ``gram`` takes the eigenvalues of the N x N Gram matrix and pads with zeros (tokens only);
    ``eig`` those of the D x D covariance; ``auto`` the smaller. ValueError for N < 2, non-finite
    activations, or ``gram`` from moments.
    """
    if isinstance(source, Moments):
        if method == "gram":
            raise ValueError("moments hold no tokens, so no Gram matrix")
        return Spectrum(
            definitions.ordered(_eigenvalues(source.covariance())), _spread_of_moments(source)
        )
    reduced = _reduced(source, method)
    values = _eigenvalues(reduced.matrix) * reduced.unit
    values = values[: reduced.spread.d]
    padded = torch.nn.functional.pad(values, (0, reduced.spread.d - len(values)))
    return Spectrum(definitions.ordered(padded), reduced.spread)


@dataclass(frozen=True)
class _Reduced:
    """The smaller of covariance and Gram matrix, in units of ``unit``."""

    matrix: Tensor
    unit: float
    spread: Spread


@torch.no_grad()
def _reduced(x: Tensor, method: Method = "auto") -> _Reduced:
    x_ND = x.detach().reshape(-1, x.shape[-1])
    n, d = x_ND.shape
    if n < 2:
        raise ValueError(f"a covariance needs 2 tokens, got {n}")
    x_ND = x_ND if x_ND.dtype == torch.float64 else x_ND.float()
    gram = method == "gram" or (method == "auto" and n < d)
    y_ND, largest = _centred(x_ND)
    if largest == 0:
        size = n if gram else d
        return _Reduced(y_ND.new_zeros(size, size), 0.0, Spread(n, d, 0.0, 0.0, 0.0))
    y_ND /= largest
    matrix = y_ND @ y_ND.T if gram else syrk.product(y_ND)
    matrix /= n - 1
    r_N = y_ND.square().sum(1).double()
    unit = largest**2
    trace = float(r_N.sum()) / (n - 1)
    square = float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2
    fourth = float(r_N.square().sum()) / (n - 1)
    return _Reduced(matrix, unit, Spread(n, d, trace * unit, square * unit**2, fourth * unit**2))


def _centred(x_ND: Tensor) -> tuple[Tensor, float]:
    """Centred tokens and their largest magnitude; columns constant up to rounding become zero."""
    low_D, high_D = torch.aminmax(x_ND, dim=0)
    mean_D = x_ND.mean(0, dtype=torch.float64).to(x_ND.dtype)
    reach_D = torch.maximum(high_D - mean_D, mean_D - low_D)
    if not bool(torch.isfinite(reach_D).all()):
        raise ValueError("activations are not finite")
    noise_D = 4 * torch.finfo(x_ND.dtype).eps * torch.maximum(high_D.abs(), low_D.abs())
    constant_D = reach_D <= noise_D
    y_ND = x_ND - mean_D
    if bool(constant_D.any()):
        y_ND = y_ND.masked_fill(constant_D, 0.0)
        reach_D = reach_D.masked_fill(constant_D, 0.0)
    return y_ND, float(reach_D.max())


def _eigenvalues(matrix: Tensor) -> Tensor:
    """Descending eigenvalues of a symmetric matrix.

    A float32 solver may fail to converge, or silently return nan for a finite matrix with many
    zero rows (dead units); either way float64 on the CPU decides.
    """
    try:
        values: Tensor = torch.linalg.eigvalsh(matrix)
    except RuntimeError:
        values = torch.full((len(matrix),), torch.nan)
    if not bool(torch.isfinite(values).all()):
        values = torch.linalg.eigvalsh(matrix.to("cpu", torch.float64))
    return values.double().flip(0)
