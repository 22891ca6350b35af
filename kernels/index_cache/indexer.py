"""The lightning indexer: a small scorer whose best k past tokens a layer, or several, attend to."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nightlab.kernels.choice import record
from nightlab.kernels.index_cache import select, selected, triton_path
from nightlab.kernels.index_cache.index_set import IndexSet, Kind, every_key
from nightlab.kernels.index_cache.rope import Rope, rotate
from nightlab.kernels.index_cache.select import BlockShape


class Projections(NamedTuple):
    """What the indexer makes of its input. B batch, T tokens, I index heads, d index width."""

    q: Tensor
    """[B, T, I, d]"""
    k: Tensor
    """[B, S, d], one key a token for all index heads; S = T unless a key cache is used."""
    w: Tensor
    """fp32 [B, T, I], scaled by I^-0.5 d^-0.5; may be negative."""


class KeyCache:
    """Index keys of the tokens decoded so far, for one F layer. An S layer has none."""

    def __init__(self, batch: int, capacity: int, head_dim: int, like: Tensor) -> None:
        self._keys = like.new_empty(batch, capacity, head_dim)
        self.length = 0

    def append(self, k_BTD: Tensor) -> Tensor:
        """Store new keys and return all of them [B, S, d]. ValueError when full."""
        stop = self.length + k_BTD.shape[1]
        if stop > self._keys.shape[1]:
            raise ValueError(f"{stop} index keys for a cache of {self._keys.shape[1]}")
        self._keys[:, self.length : stop] = k_BTD
        self.length = stop
        return self._keys[:, :stop]


class LightningIndexer(nn.Module):
    """Scores every past token for every query and selects the best (DSA, reference 1.1 and 1.2).

    Its input is detached: it learns from its KL loss alone. At least 8 heads are advised, because
    with fewer the ReLU scores tie at zero in many rows.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 8,
        head_dim: int = 32,
        topk: int = 256,
        rope: Rope = "half",
        block: BlockShape | None = None,
        relu: bool = True,
        *,
        d_query: int | None = None,
        rope_dim: int | None = None,
    ) -> None:
        """``d_query``: width of the query latent if it is not the layer input; ``rope_dim``: how
        many leading dims rotate (all by default)."""
        super().__init__()
        self.n_heads, self.head_dim, self.topk = n_heads, head_dim, topk
        self.rope: Rope = rope
        self.rope_dim = head_dim if rope_dim is None else rope_dim
        self.block, self.relu = block, relu
        self.query = nn.Linear(d_query or d_model, n_heads * head_dim, bias=False)
        self.key = nn.Linear(d_model, head_dim, bias=False)
        self.key_norm = nn.LayerNorm(head_dim, eps=1e-6)
        self.weight = nn.Linear(d_model, n_heads, bias=False)

    def forward(
        self, x_BTE: Tensor, q_latent: Tensor | None = None, q_offset: int = 0
    ) -> Projections:
        """Project the detached layer input; ``q_offset`` is the position of the first token."""
        x = x_BTE.detach()
        latent = x if q_latent is None else q_latent.detach()
        positions = torch.arange(q_offset, q_offset + x.shape[1], device=x.device)
        q = self.query(latent).unflatten(-1, (self.n_heads, self.head_dim))
        q = rotate(q, positions[:, None], self.rope_dim, self.rope)
        k = rotate(self.key_norm(self.key(x)), positions, self.rope_dim, self.rope)
        w = nn.functional.linear(x.float(), self.weight.weight.float())
        return Projections(q, k, w * (self.n_heads * self.head_dim) ** -0.5)

    def select(
        self,
        x_BTE: Tensor,
        *,
        q_latent: Tensor | None = None,
        keys: KeyCache | None = None,
        lengths: Tensor | None = None,
        known: IndexSet | None = None,
        path: str = "auto",
    ) -> IndexSet:
        """The set of keys for each query of the layer input [B, T, E].

        Scoring is skipped while S <= topk; the keys still enter ``keys``. ``lengths`` [B] empties
        the rows of right padding. ``known`` gives the set of an earlier identical forward
        (activation checkpointing): its indices are used again and only the logits are recomputed.
        With gradient enabled in training mode the set carries logits for its KL loss.
        """
        offset = 0 if keys is None else keys.length
        made = self(x_BTE, q_latent, offset)
        if keys is not None:
            made = made._replace(k=keys.append(made.k))
        index = self._choose(made, offset, lengths, path) if known is None else known
        if self.training and torch.is_grad_enabled():
            logits = self.logits(made, index)
            index.logits = logits if known is None else known.logits
        return index

    def logits(self, made: Projections, index: IndexSet) -> Tensor:
        """Index logits [B, R, K] of a set's slots, with gradient; -inf where invalid."""
        q, k, w = made.q, made.k, made.w
        if q.dtype in (torch.float16, torch.bfloat16) and not q.is_cuda:
            q, k = q.float(), k.float()
        w = w.to(q.dtype) if q.dtype is torch.float64 else w
        if index.kind is Kind.BLOCK:
            if self.block is None:
                raise ValueError("a block set for an indexer that selects tokens")
            return selected.selected_block_logits(q, k, w, index, self.block, self.relu)
        use_triton = _on_triton("index_cache.selected_logits", q, "auto")
        logits_of = triton_path.selected_logits if use_triton else selected.selected_logits
        return logits_of(q, k, w, index, self.relu)

    def _choose(
        self, made: Projections, offset: int, lengths: Tensor | None, path: str
    ) -> IndexSet:
        batch, queries, keys = made.q.shape[0], made.q.shape[1], made.k.shape[1]
        if keys <= self.topk:
            record("index_cache.indexer", "skipped", "no more keys than topk: all are selected")
            index = every_key(batch, queries, keys, offset, made.q.device)
        elif self.block is None:
            index = select_tokens(made, self.topk, offset, self.relu, path)
        else:
            index = select_blocks(made, self.topk, offset, self.relu, self.block, path)
        return index if lengths is None else without_padding(index, lengths)


def without_padding(index: IndexSet, lengths: Tensor) -> IndexSet:
    """The same set with padding rows emptied: rows that start at ``lengths`` [B] or later."""
    first = torch.arange(index.indices.shape[1], device=lengths.device) * index.block_q
    padding = first + index.q_offset >= lengths[:, None]
    return IndexSet(
        indices=index.indices.masked_fill(padding[..., None], -1),
        queries=index.queries,
        keys=index.keys,
        kind=index.kind,
        block_q=index.block_q,
        block_k=index.block_k,
        q_offset=index.q_offset,
    )


@torch.no_grad()
def select_tokens(
    made: Projections, topk: int, q_offset: int = 0, relu: bool = True, path: str = "auto"
) -> IndexSet:
    """Each query's ``topk`` best causal keys. ``path``: auto, cpu or triton."""
    q, k, w = made.q, made.k.to(made.q.dtype), made.w.to(made.q.dtype)
    if _on_triton("index_cache.indexer", q, path):
        indices = triton_path.select_tokens(q, k, made.w, topk, q_offset, relu)
    else:
        indices = select.select_tokens(q, k, w, topk, q_offset, relu)
    return IndexSet(indices=indices, queries=q.shape[1], keys=k.shape[1], q_offset=q_offset)


@torch.no_grad()
def select_blocks(
    made: Projections,
    topk: int,
    q_offset: int = 0,
    relu: bool = True,
    shape: BlockShape | None = None,
    path: str = "auto",
) -> IndexSet:
    """Each query tile's best key blocks, at least the forced ones, about ``topk`` keys a query."""
    shape = BlockShape() if shape is None else shape
    q, k, w = made.q, made.k.to(made.q.dtype), made.w.to(made.q.dtype)
    straddles = q_offset % shape.block_k > 0 and q.shape[1] > 1
    slots = max(-(-topk // shape.block_k), shape.forced(k.shape[1]) + straddles)
    slots = min(slots, -(-k.shape[1] // shape.block_k))
    if _on_triton("index_cache.indexer", q, path):
        indices = triton_path.select_blocks(q, k, made.w, slots, q_offset, relu, shape)
    else:
        indices = select.select_blocks(q, k, w, slots, q_offset, relu, shape)
    return IndexSet(
        indices=indices,
        queries=q.shape[1],
        keys=k.shape[1],
        kind=Kind.BLOCK,
        block_q=shape.block_q,
        block_k=shape.block_k,
        q_offset=q_offset,
    )


def _on_triton(op: str, like: Tensor, path: str) -> bool:
    use, reason = triton_path.usable(like, path)
    record(op, "triton" if use else "cpu", reason)
    return use
