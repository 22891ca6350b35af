"""Evict once, after prefill: what a policy is, and the calls that run one.

A policy sees the prompt's whole cache and the queries it asked to watch, and names the rows that
stay. It never touches the cache itself.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from nightlab.kernels.kv import ops, selection
from nightlab.kernels.kv.cache import KVCache, Probe, Seen
from nightlab.kernels.kv.contract import Decoder
from nightlab.kernels.kv.scores import Reduction
from nightlab.kernels.kv.selection import Kept


def observe(
    model: Decoder, cache: KVCache, x_BND: Tensor, reduction: Reduction | None = None
) -> Probe:
    """Queries and keys of embeddings run against a cache, which stays as it was.

    With ``reduction`` the probe also scores the cache's rows, without gradient. The last layer
    stops at its queries and keys, as nothing after them is used.
    """
    probe = Probe(cache, brief=True, reduction=reduction)
    with suppress(Seen):
        model.run(x_BND, probe)
    return probe


@dataclass(frozen=True)
class Prompt:
    """What a policy may look at after prefill."""

    model: Decoder
    tokens: Tensor
    """[B, T] (int64)."""
    logits: Tensor
    """[B, V], those that follow the prompt."""
    cache: KVCache
    """Whole, with the watched queries."""


class Eviction(Protocol):
    """A rule that decides which rows of a prompt's cache stay."""

    def watch(self, tokens: int) -> int:
        """How many of a prompt's last queries the policy needs to see; 0 when none."""
        ...

    def plan(self, prompt: Prompt, budget: int) -> Sequence[Kept]:
        """Per layer the rows that stay, ``budget`` per key/value head on average over the model."""
        ...


class Scorer(Protocol):
    """Gives every cached row an importance."""

    def watch(self, tokens: int) -> int: ...

    def score(self, prompt: Prompt) -> list[Tensor]:
        """Per layer [B, G, T], at least 0, larger is more important."""
        ...


Allocation = Literal["even", "heads", "layers", "model"]
"""Who shares a budget: nobody; heads of a layer (AdaKV); layers (PyramidKV); all heads (KVzip)."""
Weight = Literal["none", "norm", "output"]
"""Score factor: none; ``|v|``; ``|W_o v|_1`` (CriticalKV), summed over the group's query heads."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An eviction policy made of a scorer and a way to spend the budget."""

    scorer: Scorer
    allocation: Allocation = "even"
    sinks: int = 0
    """First tokens that always stay."""
    recent: int = 0
    """Last tokens that always stay; they count in the budget."""
    recent_share: float = 0.0
    """Last tokens that always stay, as a share of the budget (H2O: 0.5)."""
    pool: int = 1
    """Width of the max-pool over scores."""
    floor: float = 0.2
    """AdaKV's and KVzip's safeguard: share of the budget no head falls below."""
    weight: Weight = "none"
    epsilon: float = 1e-4
    """Added to scores before weighting."""

    def watch(self, tokens: int) -> int:
        return self.scorer.watch(tokens)

    @torch.no_grad()
    def plan(self, prompt: Prompt, budget: int) -> list[Kept]:
        scores = self.scorer.score(prompt)
        if self.weight != "none":
            scores = [self._weighted(prompt, i, s) for i, s in enumerate(scores)]
        recent = max(self.recent, int(self.recent_share * budget))
        lengths = self._lengths(scores, budget, recent)
        return _each_layer(
            ops.select_rows(
                torch.cat(scores),
                torch.cat(lengths),
                sinks=self.sinks,
                recent=recent,
                pool=self.pool,
            ),
            len(scores),
        )

    def _lengths(self, scores: list[Tensor], budget: int, recent: int) -> list[Tensor]:
        T = scores[0].shape[2]
        if self.allocation == "even":
            return [selection.even_lengths(s, budget) for s in scores]
        if self.allocation == "layers":
            budgets = selection.pyramid_budgets(len(scores), budget, recent, T)
            return [selection.even_lengths(s, c) for s, c in zip(scores, budgets, strict=True)]
        sinks = min(self.sinks, budget, T)
        recent = min(recent, budget - sinks, T - sinks)
        free = [selection.max_pool(s.float(), self.pool)[..., sinks : T - recent] for s in scores]
        rest = min(budget, T) - sinks - recent
        if self.allocation == "heads":
            lengths = [selection.head_lengths(s, rest, floor=self.floor) for s in free]
        else:
            lengths = selection.global_lengths(free, rest, least=int(self.floor * rest))
        return [n + sinks + recent for n in lengths]

    def _weighted(self, prompt: Prompt, layer: int, s_BGT: Tensor) -> Tensor:
        _, v_BGTd = prompt.cache.dense(layer)
        if self.weight == "norm":
            norm: Tensor = torch.linalg.vector_norm(v_BGTd.float(), dim=-1)
            return (s_BGT + self.epsilon) * norm
        shape = prompt.model.shape
        w_o = prompt.model.linears()[layer]["o"].weight.float()
        w_DGgd = w_o.view(-1, shape.kv_heads, shape.query_heads // shape.kv_heads, shape.head_dim)
        size = torch.zeros_like(s_BGT)
        for g in range(w_DGgd.shape[2]):
            moved = torch.einsum("bgtd,ogd->bgto", v_BGTd.float(), w_DGgd[:, :, g])
            size += moved.abs().sum(dim=-1)
        return (s_BGT + self.epsilon) * size


def _each_layer(kept: Kept, layers: int) -> list[Kept]:
    """The layers of one selection over a batch in which they lay one after another."""
    lengths = kept.lengths.chunk(layers)
    indices = torch.split(kept.index, [int(n.sum()) for n in lengths])
    return [Kept(index, n) for index, n in zip(indices, lengths, strict=True)]


@dataclass(frozen=True)
class Full:
    """Keeps everything: the fidelity reference."""

    def watch(self, tokens: int) -> int:
        return 0

    def plan(self, prompt: Prompt, budget: int) -> list[Kept]:
        del budget
        kept = []
        for layer in range(prompt.cache.layers):
            s = prompt.cache.dense(layer)[0][..., 0]
            kept.append(
                selection.select_rows(torch.zeros_like(s), selection.even_lengths(s, s.shape[2]))
            )
        return kept


@dataclass(frozen=True)
class Prefilled:
    """A prompt after prefill and eviction, ready to decode."""

    logits: Tensor
    """[B, V], those that follow the prompt."""
    cache: KVCache
    kept: Sequence[Kept] = field(default_factory=list)
    """Per layer, which rows stayed."""


def budget_rows(share: float, tokens: int) -> int:
    """Tokens per head for a share of the prompt, rounded to the nearest, at least 1."""
    return max(1, min(tokens, round(share * tokens)))


@torch.no_grad()
def read_prompt(
    model: Decoder, tokens_BT: Tensor, watch: int = 0, *, chunk: int | None = None
) -> Prompt:
    """Prefill, whole or in chunks of ``chunk`` tokens, keeping the last ``watch`` queries."""
    cache = model.init_cache(tokens_BT.shape[0])
    cache.watch = watch
    logits = tokens_BT.new_zeros(0)
    for part in torch.split(tokens_BT, chunk or tokens_BT.shape[1], dim=1):
        logits = model.prefill(part, cache)
    return Prompt(model, tokens_BT, logits, cache)


@torch.no_grad()
def evict(prompt: Prompt, policy: Eviction, budget: int) -> Prefilled:
    """Apply a policy once; the prompt's cache is compacted in place and evicted rows are freed."""
    kept = policy.plan(prompt, budget)
    prompt.cache.compact([(k.index, k.lengths) for k in kept])
    return Prefilled(prompt.logits, prompt.cache, kept)


def prefill_and_evict(
    model: Decoder, tokens_BT: Tensor, policy: Eviction, budget: int, *, chunk: int | None = None
) -> Prefilled:
    """Read a prompt and keep ``budget`` tokens per head of it (averaged over heads and layers)."""
    prompt = read_prompt(model, tokens_BT, policy.watch(tokens_BT.shape[1]), chunk=chunk)
    return evict(prompt, policy, budget)


@torch.no_grad()
def generate(
    model: Decoder, state: Prefilled, steps: int, *, forced_BN: Tensor | None = None
) -> Tensor:
    """Greedy continuation [B, steps] on the decode path, after ``forced_BN`` (a late question)."""
    logits = state.logits
    if forced_BN is not None and forced_BN.shape[1] > 0:
        logits = model.prefill(forced_BN, state.cache)
    out = []
    for i in range(steps):
        out.append(logits.argmax(dim=-1))
        if i + 1 < steps:
            logits = model.step(out[-1], state.cache)
    return (
        torch.stack(out, dim=1) if out else logits.new_zeros(logits.shape[0], 0, dtype=torch.int64)
    )
