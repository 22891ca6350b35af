"""From scores to the rows that stay: pooling, head and layer budgets, and a stable top-k.

Ties go to the lower position, forced rows are marked by a mask (never by a huge score), and kept
positions ascend. C is the budget: tokens kept per key/value head, forced ones included.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Kept:
    """Which rows of one layer stay."""

    index: Tensor
    """[R]: token positions (int64), segment after segment, ascending within each."""
    lengths: Tensor
    """[B, G]: rows per segment (int64)."""

    def mask(self, tokens: int) -> Tensor:
        """True where a row stays: [B, G, tokens]."""
        B, G = self.lengths.shape
        segment_R = torch.repeat_interleave(
            torch.arange(B * G, device=self.index.device), self.lengths.flatten()
        )
        mask = torch.zeros(B * G * tokens, dtype=torch.bool, device=self.index.device)
        mask[segment_R * tokens + self.index] = True
        return mask.view(B, G, tokens)


def max_pool(s_BGT: Tensor, width: int) -> Tensor:
    """Sliding maximum over ``width`` (odd) neighbouring positions."""
    if width <= 1:
        return s_BGT
    return F.max_pool1d(s_BGT, width, stride=1, padding=width // 2)


def select_rows(
    s_BGT: Tensor, lengths_BG: Tensor, *, sinks: int = 0, recent: int = 0, pool: int = 1
) -> Kept:
    """Keep the ``lengths_BG`` best rows of each head, forced ones first.

    The reference twin of :func:`nightlab.kernels.kv.select_triton.select_rows`. Lengths are cut
    to [0, T]. Where a head's length is below the forced count, its sinks stay and then its most
    recent rows. Scores must not be NaN.
    """
    T = s_BGT.shape[2]
    lengths = lengths_BG.clamp(min=0, max=T)
    s = max_pool(s_BGT.float(), pool)
    length = lengths[..., None]
    if sinks == 0 and recent == 0:
        stays = _best(s, length)
    else:
        at = torch.arange(T, device=s.device)
        sink_count = length.clamp(max=sinks)
        recent_count = (length - sink_count).clamp(max=recent)
        forced = (at < sink_count) | (at >= T - recent_count)
        free = s.masked_fill(forced, float("-inf"))
        stays = _best(free, length - sink_count - recent_count) | forced
    return Kept(stays.flatten(0, 1).nonzero()[:, 1], lengths)


def _best(s_BGT: Tensor, count_BG1: Tensor) -> Tensor:
    """True at the ``count`` largest entries of each row, ties to the lower position: [B, G, T].

    By the value of the last one that fits, which takes no sort of all T.
    """
    most = int(count_BG1.max()) if count_BG1.numel() else 0
    if most == 0:
        return torch.zeros_like(s_BGT, dtype=torch.bool)
    top = s_BGT.topk(most).values
    last = top.gather(-1, (count_BG1 - 1).clamp(min=0))
    above, tied = s_BGT > last, s_BGT == last
    room = count_BG1 - above.sum(-1, keepdim=True)
    return above | (tied & (tied.cumsum(-1) <= room))


def even_lengths(s_BGT: Tensor, budget: int) -> Tensor:
    """The same budget for every head."""
    B, G, T = s_BGT.shape
    return torch.full((B, G), min(budget, T), dtype=torch.int64, device=s_BGT.device)


def head_lengths(s_BGT: Tensor, budget: int, *, floor: float = 0.2) -> Tensor:
    """AdaKV (arXiv 2407.11550): heads of a layer compete for G * C rows.

    Each keeps ``floor * C`` at least; the rest goes where the layer's largest scores are. Sums to
    exactly G * C per sequence (as far as T allows).
    """
    G, T = s_BGT.shape[1:]
    budget = min(budget, T)
    least = int(floor * budget)
    s = s_BGT.float()
    top = torch.sort(s, dim=-1, descending=True, stable=True).values
    return least + _claimed(top[..., least:], G * (budget - least))


def _claimed(s_BXT: Tensor, total: int) -> Tensor:
    """Of a sequence's ``total`` largest entries, how many lie in each row X (ties to the first)."""
    B, X, T = s_BXT.shape
    best = torch.sort(s_BXT.reshape(B, X * T), dim=-1, descending=True, stable=True).indices
    owner = best[:, :total] // max(T, 1)
    counts = torch.zeros(B, X, dtype=torch.int64, device=s_BXT.device)
    return counts.scatter_add_(1, owner, torch.ones_like(owner))


def global_lengths(scores: list[Tensor], budget: int, *, least: int = 0) -> list[Tensor]:
    """KVzip: all heads of all layers compete for L * G * C rows; each keeps ``least`` at least."""
    s_BXT = torch.cat([s.float() for s in scores], dim=1)
    T = s_BXT.shape[2]
    budget = min(budget, T)
    least = min(least, budget)
    top = torch.sort(s_BXT, dim=-1, descending=True, stable=True).values
    lengths = least + _claimed(top[..., least:], s_BXT.shape[1] * (budget - least))
    return list(torch.split(lengths, [s.shape[1] for s in scores], dim=1))


def pyramid_budgets(
    layers: int, budget: int, window: int, tokens: int, *, beta: float = 20.0
) -> list[int]:
    """PyramidKV (arXiv 2406.02069): budgets fall linearly with depth around a mean of exactly C.

    The last layer gets ``window + (C - window) / beta``, the first its mirror image; where that
    would be more than there are tokens, the slope is flattened.
    """
    if layers == 1 or budget <= window:
        return [budget] * layers
    spread = min((budget - window) * (1.0 - 1.0 / beta), float(max(tokens - budget, 0)))
    shares = [budget + spread * (1.0 - 2.0 * i / (layers - 1)) for i in range(layers)]
    whole = [int(share) for share in shares]
    by_rest = sorted(range(layers), key=lambda i: (whole[i] - shares[i], i))
    for i in by_rest[: layers * budget - sum(whole)]:
        whole[i] += 1
    return whole
