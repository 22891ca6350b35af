"""The decode contract: what a program offers so that its decode path can be run and measured.

Two levels. :class:`DecodeProgram` is what a scorer needs: any program with ``init_cache``,
``prefill`` and ``step`` can be run token by token, whatever its cache is. :class:`Decoder` is
what an eviction policy needs on top: attention goes through the cache
(:meth:`Attending.attend`), so a policy can watch queries, drop rows and replay tokens without
knowing the model.

Axes: B batch, T prompt tokens, N new tokens, H query heads, G key/value heads (H is a multiple
of G), d head width, D model width, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from nightlab.kernels.kv.cache import KVCache

Cache = TypeVar("Cache")


@runtime_checkable
class DecodeProgram(Protocol[Cache]):
    """A program that can be decoded token by token.

    The order of calls is ``init_cache``, one or more ``prefill``, then ``step`` per token. The
    whole batch shares one length: there is no padding. Feeding the same tokens in one
    ``prefill``, in several, or through ``step`` gives the same logits to rounding, unless the
    program evicts in between. All state that grows with the context lives in the cache.
    """

    def init_cache(self, batch: int) -> Cache:
        """An empty cache for ``batch`` sequences, on the program's own device."""
        ...

    def prefill(self, tokens_BN: Tensor, cache: Cache) -> Tensor:
        """Append N tokens (int64) and return the logits [B, V] that follow the last one."""
        ...

    def step(self, tokens_B: Tensor, cache: Cache) -> Tensor:
        """Append one token per sequence and return the logits [B, V] that follow it."""
        ...


class Attending(Protocol):
    """The face of a cache that a decoder's attention sees; a real cache or a probe of one."""

    @property
    def position(self) -> int:
        """Absolute position of the next token: tokens seen so far, never the row count."""
        ...

    def attend(self, layer: int, q_BHNd: Tensor, k_BGNd: Tensor, v_BGNd: Tensor) -> Tensor:
        """Causal attention of N new, already rotated tokens over all that is cached and themselves.

        Returns [B, H, N, d]. Scale is ``d ** -0.5``. Called once per layer and forward pass, in
        order of layers.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """The numbers an eviction policy must know."""

    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    width: int
    """Model width D: the size of an embedding."""


class Decoder(DecodeProgram[KVCache], Protocol):
    """A decoder whose attention goes through :class:`Attending`: any policy can serve it."""

    @property
    def shape(self) -> DecoderShape: ...

    def embed(self, tokens_BN: Tensor) -> Tensor:
        """Input embeddings [B, N, D], before any position is mixed in."""
        ...

    def run(self, x_BND: Tensor, cache: Attending) -> Tensor:
        """All layers on embeddings at positions ``cache.position ...``; hidden states [B, N, D]."""
        ...

    def logits(self, x_BND: Tensor) -> Tensor:
        """Final norm and head: [B, N, V]."""
        ...

    def rotate(self, x_BHNd: Tensor, positions_N: Tensor) -> Tensor:
        """Apply the model's rotary embedding; negative positions undo it. Identity without RoPE."""
        ...

    def linears(self) -> Sequence[Mapping[str, nn.Linear]]:
        """Per layer, the linear maps by role: q, k, v, o, gate, up, down (as many as exist).

        One map to queries, keys and values has the role qkv; further maps have any other name.
        """
        ...
