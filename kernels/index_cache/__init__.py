"""Sparse attention whose index sets are shared across layers (IndexCache, arXiv 2603.12201).

A lightning indexer picks each query's best keys, or each query tile's best key blocks; attention
runs on those alone; layers marked S in an :class:`IndexPattern` reuse the set of the F layer before
them. Every op has a plain-PyTorch specification in ``reference``, a fast torch path and a Triton
path; :func:`nightlab.kernels.explain` shows which one ran and why.
"""

from nightlab.kernels.index_cache.attention import sparse_attention
from nightlab.kernels.index_cache.cache import IndexCache
from nightlab.kernels.index_cache.decode import sparse_attention_decode
from nightlab.kernels.index_cache.greedy import GreedyResult, GreedyStep, greedy_search
from nightlab.kernels.index_cache.index_set import IndexSet, Inverse, Kind, every_key
from nightlab.kernels.index_cache.indexer import (
    KeyCache,
    LightningIndexer,
    Projections,
    select_blocks,
    select_tokens,
)
from nightlab.kernels.index_cache.layer import SparseAttention
from nightlab.kernels.index_cache.loss import attach_loss, indexer_kl_loss, warmup_kl_loss
from nightlab.kernels.index_cache.overlap import Overlap, overlap, overlap_pattern
from nightlab.kernels.index_cache.pattern import IndexPattern, flops_ratio, predicted_speedup
from nightlab.kernels.index_cache.reference import Attended, indexer_logits
from nightlab.kernels.index_cache.select import BlockShape, topk_select
from nightlab.kernels.index_cache.selected import selected_logits

__all__ = [
    "Attended",
    "BlockShape",
    "GreedyResult",
    "GreedyStep",
    "IndexCache",
    "IndexPattern",
    "IndexSet",
    "Inverse",
    "KeyCache",
    "Kind",
    "LightningIndexer",
    "Overlap",
    "Projections",
    "SparseAttention",
    "attach_loss",
    "every_key",
    "flops_ratio",
    "greedy_search",
    "indexer_kl_loss",
    "indexer_logits",
    "overlap",
    "overlap_pattern",
    "predicted_speedup",
    "select_blocks",
    "select_tokens",
    "selected_logits",
    "sparse_attention",
    "sparse_attention_decode",
    "topk_select",
    "warmup_kl_loss",
]
