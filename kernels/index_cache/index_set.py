"""The value that layers share: which keys each query, or each tile of queries, attends to.

B batch, R rows (one a query tile of ``block_q`` queries), K slots, Tq queries, S keys. A token set
is the special case of 1 x 1 blocks, so every consumer has one rule of validity: slot j of row r
counts iff ``0 <= j`` and its first key is not after the row's last query, and within it a query at
position p sees the keys at positions <= p.
"""

from copy import copy
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import torch
from torch import Tensor


class Kind(StrEnum):
    """What an index points at."""

    TOKEN = "token"
    BLOCK = "block"


@dataclass(frozen=True, eq=False)
class Inverse:
    """Key (block) -> rows that selected it, for dK and dV without atomics; CSR over B*nK keys."""

    offsets: Tensor
    """int32 [B*nK + 1]: where each key's rows start in ``rows``."""
    rows: Tensor
    """int32 [nnz]: row numbers 0..R-1, ascending for each key."""


@dataclass(eq=False, kw_only=True)
class IndexSet:
    """Selected keys for all heads of the layers that share it. ValueError on a wrong shape.

    Derived data (masks, inverse map) is computed once, at the first layer that asks, and reused
    by every other layer and by the backward pass.
    """

    indices: Tensor
    """int32 [B, R, K]: key numbers (token) or key block numbers (block), ascending, then -1."""
    queries: int
    """Tq."""
    keys: int
    """S."""
    kind: Kind = Kind.TOKEN
    block_q: int = 1
    """Queries that share a row."""
    block_k: int = 1
    """Keys in a block."""
    q_offset: int = 0
    """Position of query 0 among the keys; S - Tq where the queries are the newest tokens."""
    everything: bool = False
    """Every causal key is selected, so dense causal attention computes the same."""
    logits: Tensor | None = None
    """[B, R, K] index logits of the slots, with gradient: what the KL loss trains."""
    target_acc: Tensor | None = None
    """[B, R, K] sum over the layers in ``target_layers`` of their mean attention; no gradient."""
    target_entropy: Tensor | None = None
    """[B, R] sum over those layers of sum p log p, for the value of the multi-layer loss."""
    target_layers: set[int] = field(default_factory=set)
    _bias: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.indices.dtype != torch.int32 or self.indices.dim() != 3:
            raise ValueError(
                f"indices are int32 [B, R, K], got {self.indices.dtype} {tuple(self.indices.shape)}"
            )
        if self.kind is Kind.TOKEN and (self.block_q, self.block_k) != (1, 1):
            raise ValueError("a token set has 1 x 1 blocks")
        if self.indices.shape[1] != -(-self.queries // self.block_q):
            raise ValueError(
                f"{self.indices.shape[1]} rows for {self.queries} queries in tiles "
                f"of {self.block_q}"
            )

    def untaught(self) -> "IndexSet":
        """The same selection without what training hangs on it.

        For autograd nodes that lead to ``logits``: one that held the set itself would keep the
        whole forward alive until the next garbage collection.
        """
        bare = copy(self)
        bare.logits = bare.target_acc = bare.target_entropy = None
        bare.target_layers = set()
        return bare

    @property
    def key_blocks(self) -> int:
        """nK: key blocks, the last perhaps ragged."""
        return -(-self.keys // self.block_k)

    @property
    def reach(self) -> int:
        """Most keys a query can attend to: K * block_k."""
        return self.indices.shape[2] * self.block_k

    @cached_property
    def valid(self) -> Tensor:
        """bool [B, R, K]: the slots that count."""
        rows = torch.arange(self.indices.shape[1], device=self.indices.device)
        last = self.q_offset + ((rows + 1) * self.block_q).clamp_(max=self.queries) - 1
        first_key = self.indices * self.block_k
        return (self.indices >= 0) & (first_key < self.keys) & (first_key <= last[:, None])

    @cached_property
    def counts(self) -> Tensor:
        """int32 [B, R]: valid slots of each row."""
        return self.valid.sum(-1, dtype=torch.int32)

    @cached_property
    def hidden(self) -> Tensor:
        """bool [B, R, block_q, K*block_k]: pairs of a query and a slot's key that do not attend."""
        device = self.indices.device
        batch, rows, slots = self.indices.shape
        query = torch.arange(rows * self.block_q, device=device).view(rows, self.block_q, 1, 1)
        inside = torch.arange(self.block_k, device=device)
        key = self.indices[:, :, None, :, None] * self.block_k + inside
        seen = (key <= query + self.q_offset) & (key < self.keys) & (query < self.queries)
        seen &= self.valid[:, :, None, :, None]
        return seen.logical_not_().view(batch, rows, self.block_q, slots * self.block_k)

    def bias(self, dtype: torch.dtype) -> Tensor:
        """:attr:`hidden` as what is added to scores: -inf where hidden, 0 elsewhere; kept."""
        if self._bias is None or self._bias.dtype != dtype:
            zero = torch.zeros(self.hidden.shape, dtype=dtype, device=self.indices.device)
            self._bias = zero.masked_fill_(self.hidden, float("-inf"))
        return self._bias

    @cached_property
    def whole(self) -> Tensor:
        """bool [B, R]: rows where nothing is hidden."""
        return ~self.hidden.any(-1).any(-1)

    @cached_property
    def safe_indices(self) -> Tensor:
        """int64 [B, R, K]: indices with invalid slots pointing at key 0, for gathers."""
        return self.indices.masked_fill(~self.valid, 0).long()

    @cached_property
    def mask(self) -> Tensor:
        """bool [B, Tq, S]: the whole selection as a dense mask. O(Tq S) memory."""
        batch, rows, _ = self.indices.shape
        blocks = self.indices.new_zeros(batch, rows, self.key_blocks)
        blocks.scatter_add_(2, self.safe_indices, self.valid.int())
        dense = blocks.bool().repeat_interleave(self.block_q, 1)[:, : self.queries]
        dense = dense.repeat_interleave(self.block_k, 2)[:, :, : self.keys]
        query = torch.arange(self.queries, device=self.indices.device)[:, None] + self.q_offset
        return dense & (torch.arange(self.keys, device=self.indices.device) <= query)

    @cached_property
    def inverse(self) -> Inverse:
        """Key block -> rows, from one stable sort."""
        batch, rows, slots = self.indices.shape
        flat_key = (
            self.safe_indices
            + torch.arange(batch, device=self.indices.device).view(-1, 1, 1) * self.key_blocks
        )
        keys = flat_key[self.valid]
        row = torch.arange(rows, dtype=torch.int32, device=keys.device).view(1, -1, 1)
        order = torch.argsort(keys, stable=True)
        counts = torch.bincount(keys, minlength=batch * self.key_blocks)
        offsets = torch.zeros(batch * self.key_blocks + 1, dtype=torch.int32, device=keys.device)
        offsets[1:] = counts.cumsum(0)
        return Inverse(offsets, row.expand(batch, rows, slots)[self.valid][order])

    def add_target(self, layer: int, target: Tensor) -> None:
        """Add a served layer's mean attention [B, R, K] to what the indexer is taught.

        A second call for the same layer (recompute under activation checkpointing) changes nothing.
        """
        if layer in self.target_layers:
            return
        self.target_layers.add(layer)
        target = target.detach().float()
        entropy = torch.xlogy(target, target).sum(-1)
        if self.target_acc is None or self.target_entropy is None:
            self.target_acc, self.target_entropy = target.clone(), entropy
        else:
            self.target_acc, self.target_entropy = (
                self.target_acc + target,
                self.target_entropy + entropy,
            )


def every_key(batch: int, queries: int, keys: int, q_offset: int, device: torch.device) -> IndexSet:
    """The token set that selects every causal key: what a selector returns when S <= k."""
    position = torch.arange(keys, dtype=torch.int32, device=device)
    query = torch.arange(queries, dtype=torch.int32, device=device)[:, None] + q_offset
    indices = torch.where(position <= query, position, -1).expand(batch, -1, -1).contiguous()
    return IndexSet(indices=indices, queries=queries, keys=keys, q_offset=q_offset, everything=True)
