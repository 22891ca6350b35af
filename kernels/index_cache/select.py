"""Scoring and top-k on the CPU path: queries in chunks, never a T x S buffer (reference 5.3)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Pool = Literal["causal", "first", "tile"]
CHUNK_FLOATS = 1 << 21
"""Floats in one chunk of per-head scores; 8 MB measured best at 8 heads and 8192 keys."""


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """How queries share a selection of key blocks. ValueError where tiles and blocks misalign."""

    block_q: int = 64
    """Queries in a tile."""
    block_k: int = 64
    """Keys in a block."""
    local: int = 1
    """Key blocks always taken, up to the tile's own; at least 1, so that no query is left empty."""
    sink: int = 0
    """Key blocks always taken from the start of the sequence."""
    pool: Pool = "causal"
    """Whose scores a tile takes the maximum of. ``causal``: the ``block_q`` queries up to its first
    one; ``first``: its first query alone (the indexer then scores T / block_q queries); ``tile``:
    its own queries, which lets a later token of the tile change an earlier token's keys: for a
    prompt that is known in full, not for training."""

    def __post_init__(self) -> None:
        if self.block_q < 1 or self.block_k < 1 or self.local < 1 or self.sink < 0:
            raise ValueError(f"block sizes and local are positive, sink is not negative: {self}")
        if self.block_q % self.block_k and self.block_k % self.block_q:
            raise ValueError(f"block_q and block_k must divide one another, got {self}")

    def forced(self, keys: int) -> int:
        """Key blocks that every row takes, of those that exist: local, a tile's own, sink."""
        return min(-(-keys // self.block_k), self.sink + self.local + self.own - 1)

    @property
    def own(self) -> int:
        """Key blocks that a tile itself spans, at an aligned offset."""
        return max(1, self.block_q // self.block_k)


def score_rows(q_BCID: Tensor, k_BSD: Tensor, w_BCI: Tensor, buffer: Tensor, relu: bool) -> Tensor:
    """Index logits [B, C, S] of one chunk of queries, without a mask."""
    batch, rows, heads, width = q_BCID.shape
    keys = k_BSD.shape[1]
    dots = buffer[: batch * rows * heads * keys].view(batch, rows * heads, keys)
    torch.bmm(q_BCID.reshape(batch, rows * heads, width), k_BSD.mT, out=dots)
    if relu:
        dots.relu_()
    return (w_BCI.reshape(-1, 1, heads) @ dots.view(batch * rows, heads, keys)).view(
        batch, rows, keys
    )


def topk_select(logits_BCS: Tensor, topk: int) -> Tensor:
    """int32 [B, C, min(k, S)]: the contract of ``reference.topk_select``, by partial selection."""
    keys = logits_BCS.shape[-1]
    top = logits_BCS.topk(min(topk, keys), dim=-1, sorted=False)
    threshold = top.values.amin(-1, keepdim=True)
    chosen = top.indices.masked_fill(top.values == float("-inf"), keys)
    tied = (logits_BCS == threshold).sum(-1) > (top.values == threshold).sum(-1)
    tied &= threshold.squeeze(-1) != float("-inf")
    if bool(tied.any()):
        order = logits_BCS[tied].sort(dim=-1, descending=True, stable=True)
        chosen[tied] = order.indices[..., : chosen.shape[-1]]
    chosen = chosen.sort(dim=-1).values
    return chosen.masked_fill_(chosen == keys, -1).int()


@torch.no_grad()
def select_tokens(
    q_BTID: Tensor, k_BSD: Tensor, w_BTI: Tensor, topk: int, q_offset: int, relu: bool
) -> Tensor:
    """int32 [B, T, min(k, S)]: each query's best causal keys, ascending, -1 padded."""
    batch, queries, heads, _ = q_BTID.shape
    keys = k_BSD.shape[1]
    topk = min(topk, keys)
    indices = torch.full((batch, queries, topk), -1, dtype=torch.int32, device=q_BTID.device)
    chunk = max(1, min(queries, CHUNK_FLOATS // (batch * heads * keys)))
    buffer = q_BTID.new_empty(batch * chunk * heads * keys)
    for start in range(0, queries, chunk):
        stop = min(start + chunk, queries)
        seen = min(stop + q_offset, keys)
        first = min(start + q_offset, seen)
        logits = score_rows(
            q_BTID[:, start:stop], k_BSD[:, :seen], w_BTI[:, start:stop], buffer, relu
        )
        position = torch.arange(first, seen, device=logits.device)
        query = torch.arange(start, stop, device=logits.device)[:, None] + q_offset
        logits[..., first:].masked_fill_(position > query, float("-inf"))
        chosen = topk_select(logits, topk)
        indices[:, start:stop, : chosen.shape[-1]] = chosen
    return indices


def window(x_BTE: Tensor, shape: BlockShape, rows: int) -> Tensor:
    """[B, T, ...] -> [B, R, W, ...]: the queries whose scores a tile pools, zeros where none is."""
    tail = [0, 0] * (x_BTE.dim() - 2)
    length = rows * shape.block_q
    if shape.pool == "causal":
        kept = x_BTE[:, : length - shape.block_q + 1]
        ahead = shape.block_q - 1
    else:
        kept, ahead = x_BTE, 0
    padded = torch.nn.functional.pad(kept, [*tail, ahead, length - ahead - kept.shape[1]])
    tiles = padded.view(x_BTE.shape[0], rows, shape.block_q, *x_BTE.shape[2:])
    return tiles[:, :, :1] if shape.pool == "first" else tiles


def window_positions(
    shape: BlockShape, queries: int, q_offset: int, device: torch.device
) -> Tensor:
    """int64 [R, W]: positions of the queries of :func:`window` among the keys, -1 where none is."""
    rows = -(-queries // shape.block_q)
    query = torch.arange(rows, device=device)[:, None] * shape.block_q
    if shape.pool != "first":
        query = query + torch.arange(shape.block_q, device=device)
    if shape.pool == "causal":
        query = query - (shape.block_q - 1)
    return torch.where((query >= 0) & (query < queries), query + q_offset, -1)


def force(scores_BRN: Tensor, shape: BlockShape, queries: int, q_offset: int) -> Tensor:
    """Block scores with the local and sink blocks at +inf and later blocks at -inf, in place."""
    rows, blocks = scores_BRN.shape[1:]
    first = torch.arange(rows, device=scores_BRN.device)[:, None] * shape.block_q
    last = (first + shape.block_q).clamp(max=queries) - 1 + q_offset
    block = torch.arange(blocks, device=scores_BRN.device)
    oldest_local = (first + q_offset) // shape.block_k - (shape.local - 1)
    forced = (block >= oldest_local) | (block < shape.sink)
    scores_BRN.masked_fill_(forced, float("inf"))
    return scores_BRN.masked_fill_(block * shape.block_k > last, float("-inf"))


@torch.no_grad()
def select_blocks(
    q_BTID: Tensor,
    k_BSD: Tensor,
    w_BTI: Tensor,
    slots: int,
    q_offset: int,
    relu: bool,
    shape: BlockShape,
) -> Tensor:
    """int32 [B, R, slots]: each tile's best key blocks by max-pooled scores, forced ones first."""
    batch, queries, heads, _ = q_BTID.shape
    keys, blocks = k_BSD.shape[1], -(-k_BSD.shape[1] // shape.block_k)
    rows = -(-queries // shape.block_q)
    q, w = window(q_BTID, shape, rows), window(w_BTI, shape, rows)
    position = window_positions(shape, queries, q_offset, q.device)
    width = q.shape[2]
    scores = q.new_full((batch, rows, blocks), float("-inf"))
    chunk = max(1, min(rows, CHUNK_FLOATS // (batch * heads * keys * width)))
    buffer = q.new_empty(batch * chunk * width * heads * keys)
    for start in range(0, rows, chunk):
        stop = min(start + chunk, rows)
        seen = int(position[start:stop].max()) + 1
        if seen <= 0:
            continue
        logits = score_rows(
            q[:, start:stop].flatten(1, 2),
            k_BSD[:, :seen],
            w[:, start:stop].flatten(1, 2),
            buffer,
            relu,
        )
        future = torch.arange(seen, device=q.device) > position[start:stop].flatten()[:, None]
        logits.masked_fill_(future, float("-inf"))
        covered = -(-seen // shape.block_k)
        pad = (0, covered * shape.block_k - seen)
        logits = torch.nn.functional.pad(logits, pad, value=float("-inf"))
        tiles = logits.view(batch, stop - start, width, covered, shape.block_k)
        scores[:, start:stop, :covered] = tiles.amax((2, 4))
    return topk_select(force(scores, shape, queries, q_offset), slots)
