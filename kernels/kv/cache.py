"""A key/value cache whose evicted rows are really gone, and a probe that only reads it."""

from collections.abc import Sequence
from copy import copy
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from nightlab.kernels.kv.compact import KVCompact
from nightlab.kernels.kv.ops import (
    cached_attention,
    gather_rows,
    lookahead_scores,
    scored_attention,
)
from nightlab.kernels.kv.scores import Reduction

TAIL_ROOM = 16
"""Rows of spare room, at least, when a decode tail grows; it grows by an eighth when it is long."""


class Tail:
    """The rows of decoded tokens of one layer, with room to grow."""

    def __init__(self, k_BGNd: Tensor, v_BGNd: Tensor) -> None:
        B, G, N, d = k_BGNd.shape
        self._k = k_BGNd.new_empty(B, G, N + TAIL_ROOM, d)
        self._v = v_BGNd.new_empty(B, G, N + TAIL_ROOM, d)
        self.length = 0
        self.append(k_BGNd, v_BGNd)

    def append(self, k_BGNd: Tensor, v_BGNd: Tensor) -> None:
        end = self.length + k_BGNd.shape[2]
        if end > self._k.shape[2]:
            more = end - self._k.shape[2] + max(TAIL_ROOM, end // 8)
            self._k, self._v = (F.pad(x, (0, 0, 0, more)) for x in (self._k, self._v))
        self._k[:, :, self.length : end] = k_BGNd
        self._v[:, :, self.length : end] = v_BGNd
        self.length = end

    @property
    def k(self) -> Tensor:
        return self._k[:, :, : self.length]

    @property
    def v(self) -> Tensor:
        return self._v[:, :, : self.length]

    @property
    def nbytes(self) -> int:
        return self._k.untyped_storage().nbytes() + self._v.untyped_storage().nbytes()


class KVCache:
    """Per layer: the prompt's rows (dense, or packed after eviction) and a tail of later tokens.

    Implements :class:`nightlab.kernels.kv.contract.Attending`. Budgets may differ by layer, by
    sequence and by head. Positions are absolute: eviction never changes :attr:`position`.
    """

    def __init__(self, layers: int, *, watch: int = 0) -> None:
        """``watch``: how many last queries of each layer to keep until they are released."""
        self.watch = watch
        self.compacted = False
        self._seen = [0] * layers
        self._kept: list[KVCompact | None] = [None] * layers
        self._tails: list[Tail | None] = [None] * layers
        self._queries: list[Tensor | None] = [None] * layers

    @property
    def layers(self) -> int:
        return len(self._seen)

    @property
    def position(self) -> int:
        """Tokens seen so far; read it before a forward pass, not between its layers."""
        return self._seen[0]

    @property
    def nbytes(self) -> int:
        """Bytes held for keys, values and their positions (watched queries not counted)."""
        return sum(part.nbytes for part in (*self._kept, *self._tails) if part is not None)

    def attend(self, layer: int, q_BHNd: Tensor, k_BGNd: Tensor, v_BGNd: Tensor) -> Tensor:
        """See :meth:`Attending.attend`; the new rows are stored."""
        self._seen[layer] += k_BGNd.shape[2]
        self._keep_queries(layer, q_BHNd)
        kept, tail = self._kept[layer], self._tails[layer]
        if kept is None:
            self._kept[layer] = KVCompact.dense(k_BGNd, v_BGNd)
            grouped = q_BHNd.shape[1] != k_BGNd.shape[1]
            return F.scaled_dot_product_attention(
                q_BHNd, k_BGNd, v_BGNd, is_causal=True, enable_gqa=grouped
            )
        if tail is None:
            self._tails[layer] = tail = Tail(k_BGNd, v_BGNd)
        else:
            tail.append(k_BGNd, v_BGNd)
        return cached_attention(q_BHNd, kept, tail.k, tail.v)

    def adopt(self, layer: int, k_BGTd: Tensor, v_BGTd: Tensor) -> None:
        """Take rotated keys and values that were computed elsewhere as a layer's whole prompt."""
        self._kept[layer] = KVCompact.dense(k_BGTd, v_BGTd)
        self._tails[layer] = None
        self._seen[layer] = k_BGTd.shape[2]

    def _keep_queries(self, layer: int, q_BHNd: Tensor) -> None:
        if self.watch == 0:
            return
        before = self._queries[layer]
        q = q_BHNd if before is None else torch.cat([before, q_BHNd], dim=2)
        self._queries[layer] = q[:, :, -self.watch :].detach()

    def queries(self, layer: int) -> Tensor:
        """The watched, rotated queries [B, H, min(watch, seen), d]; ValueError without any."""
        q = self._queries[layer]
        if q is None:
            raise ValueError(
                f"layer {layer} has no watched queries: build the cache with watch > 0"
            )
        return q

    def release_queries(self) -> None:
        """Stop watching and free the kept queries."""
        self.watch = 0
        self._queries = [None] * self.layers

    def dense(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, T, d] of everything seen; ValueError once rows were evicted."""
        kept, tail = self._kept[layer], self._tails[layer]
        if kept is None or self.compacted:
            raise ValueError("the cache is empty or was compacted: its dense form does not exist")
        k, v, _ = kept.padded()
        if tail is None:
            return k, v
        k, v = torch.cat([k, tail.k], dim=2), torch.cat([v, tail.v], dim=2)
        self._kept[layer], self._tails[layer] = KVCompact.dense(k, v), None
        return k, v

    def kept(self, layer: int) -> KVCompact:
        """The prompt rows of a layer. Raises ValueError when nothing was stored."""
        kept = self._kept[layer]
        if kept is None:
            raise ValueError(f"layer {layer} holds nothing yet")
        return kept

    def tail(self, layer: int) -> Tail | None:
        """The rows that came after the prompt, if any."""
        return self._tails[layer]

    def compact(self, kept: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Keep only the named rows: per layer index [R] and lengths [B, G], as for ``gather_rows``.

        One layer after another, each freed before the next is copied. Happens once.
        """
        for layer, (index_R, lengths_BG) in enumerate(kept):
            k, v = self.dense(layer)
            self._kept[layer] = gather_rows(k, v, index_R, lengths_BG)
        self.compacted = True
        self.release_queries()

    def fork(self) -> Self:
        """A second cache of the same kind that shares this one's rows, which are never written.

        A kind with state of its own copies that here. Raises ValueError when there is a tail: fork
        before decoding.
        """
        if any(tail is not None for tail in self._tails):
            raise ValueError("a cache with decoded tokens cannot be forked")
        other = copy(self)
        other._seen, other._kept = list(self._seen), list(self._kept)
        other._tails, other._queries = list(self._tails), list(self._queries)
        return other


class Seen(Exception):  # noqa: N818
    """A brief probe has all it wants; the rest of the forward pass is left out."""


class Probe:
    """Runs tokens against a cache without adding them to it, and remembers their queries and keys.

    Implements :class:`nightlab.kernels.kv.contract.Attending` for one forward pass. The cache's
    own rows get no gradient; the new tokens do. With ``brief`` the pass ends with :class:`Seen` as
    soon as the last layer's queries and keys are known: what follows changes no score. With
    ``reduction`` it scores the cached rows on the way, from the attention it computes anyway.
    """

    def __init__(
        self, cache: KVCache, *, brief: bool = False, reduction: Reduction | None = None
    ) -> None:
        self._cache = cache
        self._brief = brief
        self._reduction = reduction
        self.scores: list[Tensor] = []
        """Per layer [B, G, T], of everything the cache has seen; empty without ``reduction``."""
        self.q: list[Tensor] = []
        """Per layer, the probing queries [B, H, N, d]."""
        self.k: list[Tensor] = []
        """Per layer, the probing keys [B, G, N, d]."""

    @property
    def position(self) -> int:
        return self._cache.position

    def attend(self, layer: int, q_BHNd: Tensor, k_BGNd: Tensor, v_BGNd: Tensor) -> Tensor:
        self.q.append(q_BHNd)
        self.k.append(k_BGNd)
        last = self._brief and layer + 1 == self._cache.layers
        if self._reduction is not None:
            k, v = self._cache.dense(layer)
            if not last:
                s, out = scored_attention(q_BHNd, k, v, k_BGNd, v_BGNd, self._reduction)
                self.scores.append(s)
                return out
            how = self._reduction
            self.scores.append(lookahead_scores(q_BHNd, k, k_BGNd, group=how.group, over=how.over))
        if last:
            raise Seen
        tail = self._cache.tail(layer)
        k, v = k_BGNd, v_BGNd
        if tail is not None:
            k, v = torch.cat([tail.k, k], dim=2), torch.cat([tail.v, v], dim=2)
        return cached_attention(q_BHNd, self._cache.kept(layer), k, v)
