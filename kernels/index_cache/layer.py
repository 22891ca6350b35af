"""A drop-in causal self-attention layer that shares its index set along a pattern."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from nightlab.kernels.index_cache.attention import sparse_attention
from nightlab.kernels.index_cache.cache import IndexCache
from nightlab.kernels.index_cache.index_set import IndexSet
from nightlab.kernels.index_cache.indexer import LightningIndexer
from nightlab.kernels.index_cache.loss import attach_loss, indexer_kl_loss
from nightlab.kernels.index_cache.pattern import IndexPattern
from nightlab.kernels.index_cache.rope import Rope, rotate
from nightlab.kernels.index_cache.select import BlockShape

Teach = Literal["served", "own", "nothing"]


class SparseAttention(nn.Module):
    """Layer ``layer`` of ``pattern``: an F layer selects, an S layer reuses; both attend.

    An S layer has no indexer parameters. In training mode an F layer's indexer learns from the
    attention of every layer it serves (``teach="served"``), of itself (``"own"``) or not at all;
    the loss rides on the output of the last served layer, so a model's own loss need not name it.

        pattern = IndexPattern("FSSS")
        layers = [SparseAttention(64, 4, pattern, i, topk=32) for i in range(4)]
        cache = IndexCache(pattern)                      # one for every forward
        for layer in layers:
            x = x + layer(norm(x), cache)
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        pattern: IndexPattern,
        layer: int,
        *,
        topk: int = 32,
        kv_heads: int | None = None,
        rope: Rope = "half",
        index_heads: int = 8,
        index_dim: int = 16,
        block: BlockShape | None = None,
        teach: Teach = "served",
        loss_weight: float = 1.0,
    ) -> None:
        """``topk`` keys a query; ``kv_heads`` fewer KV heads than ``n_heads`` for GQA or MQA."""
        super().__init__()
        if d_model % n_heads or n_heads % (kv_heads or n_heads):
            raise ValueError(f"{n_heads} heads of {kv_heads} KV heads do not divide {d_model}")
        self.pattern, self.layer = pattern, layer
        self.n_heads, self.kv_heads = n_heads, kv_heads or n_heads
        self.width = d_model // n_heads
        self.rope: Rope = rope
        self.teach, self.loss_weight = teach, loss_weight
        self.qkv = nn.Linear(d_model, (n_heads + 2 * self.kv_heads) * self.width, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.indexer = (
            LightningIndexer(d_model, index_heads, index_dim, topk, rope, block)
            if pattern.is_full(layer)
            else None
        )

    def forward(self, x_BTE: Tensor, cache: IndexCache) -> Tensor:
        """[B, T, E] -> [B, T, E]; reads or writes this forward's cache."""
        q, k, v = self.heads(x_BTE)
        index = self.index(x_BTE, cache)
        learns = self.training and torch.is_grad_enabled() and index.logits is not None
        teaches = learns and self.teach != "nothing"
        teaches = teaches and (self.teach == "served" or self.indexer is not None)
        attended = sparse_attention(q, k, v, index, return_target=teaches)
        if attended.target is not None:
            index.add_target(self.layer, attended.target)
        out: Tensor = self.out(attended.out.transpose(1, 2).flatten(2))
        if learns and index.target_layers and self.pattern.is_last_served(self.layer):
            out = attach_loss(out, indexer_kl_loss(index), self.loss_weight)
        return out

    def heads(self, x_BTE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated q [B, H, T, D] and k [B, N, T, D], and v."""
        sizes = [self.n_heads, self.kv_heads, self.kv_heads]
        heads = self.qkv(x_BTE).unflatten(-1, (-1, self.width)).transpose(1, 2)
        q, k, v = heads.split(sizes, 1)
        positions = torch.arange(x_BTE.shape[1], device=x_BTE.device)
        return (
            rotate(q, positions, self.width, self.rope),
            rotate(k, positions, self.width, self.rope),
            v,
        )

    def index(self, x_BTE: Tensor, cache: IndexCache) -> IndexSet:
        """This layer's set: selected and published by an F layer, fetched by an S layer."""
        if self.indexer is None:
            return cache.fetch(self.layer)
        known = cache.known(self.layer)
        return cache.publish(self.layer, self.indexer.select(x_BTE, known=known))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Refuse indexer parameters for an S layer, also where loading is not strict."""
        owned = [name for name in state_dict if name.startswith(prefix + "indexer.")]
        if self.indexer is None and owned:
            raise ValueError(
                f"layer {self.layer} of {self.pattern} is S and owns no indexer, but "
                f"the checkpoint has {owned[0]}"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)
