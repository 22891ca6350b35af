"""How alike two layers' selections are, never without the chance level; and search by it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nightlab.kernels.index_cache.index_set import IndexSet
from nightlab.kernels.index_cache.pattern import IndexPattern


@dataclass(frozen=True)
class Overlap:
    """Mean over the rows that had a choice: those with fewer slots than candidates."""

    shared: float
    """|A n B| / |A|; nan if no row had a choice."""
    chance: float
    """|B| / candidates, k / (t + 1) for tokens: what two independent random choices share."""

    @property
    def excess(self) -> float:
        """Share of the way from chance to identity: 0 at chance, 1 where the sets are equal."""
        return (self.shared - self.chance) / (1 - self.chance)


def overlap(a: IndexSet, b: IndexSet) -> Overlap:
    """Overlap of two sets over the same queries and keys. ValueError if they differ in shape."""
    if (a.kind, a.block_q, a.block_k, a.keys, a.q_offset) != (
        b.kind, b.block_q, b.block_k, b.keys, b.q_offset,
    ) or a.indices.shape[:2] != b.indices.shape[:2]:  # fmt: skip
        raise ValueError("overlap compares sets over the same rows and keys")
    shared = (_members(a) & _members(b)).sum(-1).float()
    rows = torch.arange(a.indices.shape[1], device=a.indices.device)
    last = a.q_offset + ((rows + 1) * a.block_q).clamp(max=a.queries) - 1
    candidates = (last // a.block_k + 1).clamp(max=a.key_blocks).expand_as(a.counts)
    chosen = (a.counts > 0) & (a.counts < candidates)
    share = (shared / a.counts)[chosen].mean()
    chance = (b.counts / candidates)[chosen].mean()
    return Overlap(float(share), float(chance))


def _members(index: IndexSet) -> Tensor:
    batch, rows, _ = index.indices.shape
    shape = (batch, rows, index.key_blocks + 1)
    members = torch.zeros(shape, dtype=torch.bool, device=index.indices.device)
    spare = index.safe_indices.masked_fill(~index.valid, index.key_blocks)
    return members.scatter_(2, spare, True)[..., :-1]


def overlap_pattern(similarity_NN: Tensor, keep: int) -> IndexPattern:
    """The pattern of ``keep`` F layers with the greatest summed similarity of layer to source.

    Exact, by dynamic programming over segments; ``similarity_NN[i, j]`` says how well layer i's set
    serves layer j. A local measure: it does not see errors that build up, so it is the baseline
    that :func:`greedy_search` is compared with.
    """
    n = similarity_NN.shape[0]
    if not 1 <= keep <= n:
        raise ValueError(f"keep is in 1..{n}, got {keep}")
    gain = similarity_NN.double().triu().cumsum(1)
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(n, 0): (0.0, ())}
    for start in range(n - 1, -1, -1):
        for left in range(1, keep + 1):
            options = [
                (
                    float(gain[start, stop - 1]) + best[stop, left - 1][0],
                    (start, *best[stop, left - 1][1]),
                )
                for stop in range(start + 1, n + 1)
                if (stop, left - 1) in best
            ]
            if options:
                best[start, left] = max(options, key=lambda option: option[0])
    return IndexPattern.from_full_layers(n, best[0, keep][1])
