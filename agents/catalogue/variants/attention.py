"""Variants of attention: where queries, keys and values come from and where results go.

B batch, H heads, T tokens, D width of the stream or of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nightlab.evals.tasks.byte_lm.program import VOCABULARY, Position, Scores
from nightlab.evals.tasks.byte_lm.program import Recipe as Baseline
from nightlab.evals.tasks.recall.program import Cache
from nightlab.kernels import index_cache


@dataclass(frozen=True)
class Recipe(Baseline):
    """Dials that only these variants read."""

    window: int = 32


class Biased(nn.Module):
    """Multi-head attention with biases on its linear maps.

    Why: A bias on the keys and queries lets heads prefer contents outright.
    From: Radford et al. 2019 (GPT-2)
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.qkv = nn.Linear(recipe.width, 3 * recipe.width)
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(b, t, 3, self.heads, d // self.heads).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k = position.rotate(q), position.rotate(k)
        y_BHTD = self.scores(q, k, v, position.bias(t), shared)
        return self.out(y_BHTD.transpose(1, 2).reshape(b, t, d))


class GroupedQuery(nn.Module):
    """Two query heads share each pair of key and value heads.

    Why: Half the cache and a smaller projection, for heads that look alike anyway.
    From: Ainslie et al. 2023, arXiv 2305.13245
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.groups = 1 if recipe.heads % 2 else recipe.heads // 2
        inner = self.groups * (recipe.width // recipe.heads)
        self.query = nn.Linear(recipe.width, recipe.width, bias=False)
        self.key_value = nn.Linear(recipe.width, 2 * inner, bias=False)
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        q = self.query(x_BTD).view(b, t, self.heads, d // self.heads).transpose(1, 2)
        k, v = self.key_value(x_BTD).view(b, t, 2, self.groups, d // self.heads).unbind(2)
        k, v = position.rotate(k.transpose(1, 2)), v.transpose(1, 2)
        each = self.heads // self.groups
        k, v = k.repeat_interleave(each, 1), v.repeat_interleave(each, 1)
        y_BHTD = self.scores(position.rotate(q), k, v, position.bias(t), shared)
        return self.out(y_BHTD.transpose(1, 2).reshape(b, t, d))


class MultiQuery(nn.Module):
    """All query heads share one key head and one value head.

    Why: The smallest cache and projection; time saved is steps gained.
    From: Shazeer 2019, arXiv 1911.02150
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.query = nn.Linear(recipe.width, recipe.width, bias=False)
        self.key_value = nn.Linear(recipe.width, 2 * (recipe.width // recipe.heads), bias=False)
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        q = self.query(x_BTD).view(b, t, self.heads, d // self.heads).transpose(1, 2)
        k, v = self.key_value(x_BTD)[:, None].chunk(2, -1)
        k, v = position.rotate(k).expand_as(q), v.expand_as(q)
        y_BHTD = self.scores(position.rotate(q), k, v, position.bias(t), shared)
        return self.out(y_BHTD.transpose(1, 2).reshape(b, t, d))


class Latent(nn.Module):
    """Keys and values come from a narrow latent of each token, a quarter of the width.

    Why: What a token offers to others fits in little; the cache shrinks to the latent.
    From: DeepSeek-AI 2024, arXiv 2405.04434 (MLA), without the decoupled rotary part
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.query = nn.Linear(recipe.width, recipe.width, bias=False)
        self.narrow = nn.Linear(recipe.width, max(1, recipe.width // 4), bias=False)
        self.key_value = nn.Linear(max(1, recipe.width // 4), 2 * recipe.width, bias=False)
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        q = self.query(x_BTD).view(b, t, self.heads, d // self.heads).transpose(1, 2)
        kv = self.key_value(self.narrow(x_BTD)).view(b, t, 2, self.heads, d // self.heads)
        k, v = kv.permute(2, 0, 3, 1, 4)
        q, k = position.rotate(q), position.rotate(k)
        y_BHTD = self.scores(q, k, v, position.bias(t), shared)
        return self.out(y_BHTD.transpose(1, 2).reshape(b, t, d))


class ValueResidual(nn.Module):
    """Later layers mix their values with the first layer's, in learned proportion.

    Why: The first layer's values still know which byte they came from.
    From: Zhou et al. 2024, arXiv 2410.17897
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.qkv = nn.Linear(recipe.width, 3 * recipe.width, bias=False)
        self.first_share = nn.Parameter(torch.full((1,), 0.5))
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(b, t, 3, self.heads, d // self.heads).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        v = torch.lerp(v, shared.setdefault("first_value", v), self.first_share)
        q, k = position.rotate(q), position.rotate(k)
        y_BHTD = self.scores(q, k, v, position.bias(t), shared)
        return self.out(y_BHTD.transpose(1, 2).reshape(b, t, d))


class ValueEmbedding(nn.Module):
    """Each layer adds a vector of its own per byte to the values.

    Why: Attention can pass on which byte it found without the stream having to carry it.
    From: Jordan et al. 2024 (modded-nanoGPT), after Zhou et al. 2024, arXiv 2410.17897
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.qkv = nn.Linear(recipe.width, 3 * recipe.width, bias=False)
        self.byte_value = nn.Embedding(VOCABULARY, recipe.width)
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(b, t, 3, self.heads, d // self.heads).unbind(2)
        v = v + self.byte_value(shared["tokens"]).view_as(v)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k = position.rotate(q), position.rotate(k)
        y_BHTD = self.scores(q, k, v, position.bias(t), shared)
        return self.out(y_BHTD.transpose(1, 2).reshape(b, t, d))


class HeadGate(nn.Module):
    """Each head's result passes through a gate that the token itself sets.

    Why: A head can be switched off where it has nothing to say.
    From: Qiu et al. 2025, arXiv 2505.06708, head-wise
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.qkv = nn.Linear(recipe.width, 3 * recipe.width, bias=False)
        self.gate = nn.Linear(recipe.width, recipe.heads, bias=False)
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(b, t, 3, self.heads, d // self.heads).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k = position.rotate(q), position.rotate(k)
        y_BHTD = self.scores(q, k, v, position.bias(t), shared)
        gate_BHT1 = 2 * torch.sigmoid(self.gate(x_BTD)).mT[..., None]
        return self.out((gate_BHT1 * y_BHTD).transpose(1, 2).reshape(b, t, d))


class ChannelGate(nn.Module):
    """Each channel of the result passes through a gate that the token itself sets.

    Why: A gate makes the value path bilinear, and lets a token refuse what it found.
    From: Qiu et al. 2025, arXiv 2505.06708, element-wise
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.qkv = nn.Linear(recipe.width, 3 * recipe.width, bias=False)
        self.gate = nn.Linear(recipe.width, recipe.width, bias=False)
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(b, t, 3, self.heads, d // self.heads).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k = position.rotate(q), position.rotate(k)
        y_BHTD = self.scores(q, k, v, position.bias(t), shared)
        y_BTD = y_BHTD.transpose(1, 2).reshape(b, t, d)
        return self.out(2 * torch.sigmoid(self.gate(x_BTD)) * y_BTD)


class KeyShift(nn.Module):
    """Half of each key's channels come from the token before.

    Why: One layer can find what followed the last occurrence, which otherwise takes two.
    From: Olsson et al. 2022, arXiv 2209.11895 (smeared keys)
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.qkv = nn.Linear(recipe.width, 3 * recipe.width, bias=False)
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(b, t, 3, self.heads, d // self.heads).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        now, before = k.chunk(2, -1)
        k = torch.cat((now, F.pad(before[:, :, :-1], (0, 0, 1, 0))), -1)
        q, k = position.rotate(q), position.rotate(k)
        y_BHTD = self.scores(q, k, v, position.bias(t), shared)
        return self.out(y_BHTD.transpose(1, 2).reshape(b, t, d))


class Convolved(nn.Module):
    """Queries, keys and values each pass a causal convolution over three tokens.

    Why: Heads match short strings instead of single bytes.
    From: So et al. 2021, arXiv 2109.08668 (Primer, multi-DConv-head attention)
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.qkv = nn.Linear(recipe.width, 3 * recipe.width, bias=False)
        self.kernel = nn.Parameter(torch.randn(3, 3 * recipe.width) * 0.2)
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        maps = self.qkv(x_BTD)
        mixed = maps * (1 + self.kernel[0])
        for back in range(1, min(3, t)):
            mixed = mixed + F.pad(maps[:, :-back], (0, 0, back, 0)) * self.kernel[back]
        q, k, v = mixed.view(b, t, 3, self.heads, d // self.heads).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k = position.rotate(q), position.rotate(k)
        y_BHTD = self.scores(q, k, v, position.bias(t), shared)
        return self.out(y_BHTD.transpose(1, 2).reshape(b, t, d))


class Differential(nn.Module):
    """The result of a second attention is taken off the first's, in learned proportion.

    Why: What both attend to is noise, and cancels.
    From: Ye et al. 2024, arXiv 2410.05258, eq. 1, with whole heads on both sides
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.qkv = nn.Linear(recipe.width, 5 * recipe.width, bias=False)
        self.share = nn.Parameter(torch.full((recipe.heads, 1, 1), 0.2))
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        maps = self.qkv(x_BTD).view(b, t, 5, self.heads, d // self.heads)
        q, k, q_off, k_off, v = maps.permute(2, 0, 3, 1, 4)
        q, k = position.rotate(q), position.rotate(k)
        q_off, k_off = position.rotate(q_off), position.rotate(k_off)
        bias = position.bias(t)
        y_BHTD = self.scores(q, k, v, bias, shared)
        y_BHTD = y_BHTD - self.share * self.scores(q_off, k_off, v, bias, shared)
        return self.out(y_BHTD.transpose(1, 2).reshape(b, t, d))


class CrossLayer(nn.Module):
    """Odd layers use the keys and values of the layer below.

    Why: Half the cache and a third of the projections go; neighbours' keys look alike.
    From: Brandon et al. 2024, arXiv 2405.12981
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.query = nn.Linear(recipe.width, recipe.width, bias=False)
        self.own = layer % 2 == 0
        if self.own:
            self.key_value = nn.Linear(recipe.width, 2 * recipe.width, bias=False)
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        q = self.query(x_BTD).view(b, t, self.heads, d // self.heads).transpose(1, 2)
        if self.own:
            kv = self.key_value(x_BTD).view(b, t, 2, self.heads, d // self.heads)
            k, v = kv.permute(2, 0, 3, 1, 4)
            shared["key"], shared["value"] = position.rotate(k), v
        k, v = shared["key"], shared["value"]
        y_BHTD = self.scores(position.rotate(q), k, v, position.bias(t), shared)
        return self.out(y_BHTD.transpose(1, 2).reshape(b, t, d))


class _FromCache(nn.Module):
    """Grouped queries that also attend from a cache; keys carry some of the token before."""

    cached = True

    def __init__(self, recipe: Recipe, layer: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.layer = recipe.heads, groups, layer
        inner = groups * (recipe.width // recipe.heads)
        self.query = nn.Linear(recipe.width, recipe.width, bias=False)
        self.key_value = nn.Linear(recipe.width, 2 * inner, bias=False)
        self.smear = nn.Parameter(torch.zeros(inner))
        self.scores = Scores(recipe, layer)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Any]) -> Tensor:
        b, t, d = x_BTD.shape
        k, v = self.key_value(x_BTD).chunk(2, -1)
        cache: Cache | None = shared.get("cache")
        last = getattr(cache, "last", None)  # a probe of a cache remembers no keys
        before = last(self.layer, k) if last else k.new_zeros(b, 1, k.shape[-1])
        k = torch.lerp(k, torch.cat((before, k[:, :-1]), 1), self.smear.sigmoid())
        maps = (self.query(x_BTD), k, v)
        q, k, v = (m.view(b, t, -1, d // self.heads).transpose(1, 2) for m in maps)
        q, k = position.rotate(q), position.rotate(k)
        if cache is None:
            each = self.heads // self.groups
            k, v = k.repeat_interleave(each, 1), v.repeat_interleave(each, 1)
            y_BHTD = self.scores(q, k, v, position.bias(t), shared)
        else:
            y_BHTD = cache.attend(self.layer, q, k, v)
        return self.out(y_BHTD.transpose(1, 2).reshape(b, t, d))


class CachedGroups(_FromCache):
    """Two query heads share each pair of key and value heads, in the cache too.

    Why: Half the cache for heads that look alike anyway, and every context keeps all its tokens.
    From: Ainslie et al. 2023, arXiv 2305.13245 (GQA); Olsson et al. 2022, arXiv 2209.11895
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__(recipe, layer, 1 if recipe.heads % 2 else recipe.heads // 2)


class CachedOne(_FromCache):
    """All query heads share one key head and one value head, in the cache too.

    Why: The smallest cache that keeps every token; what is saved buys steps.
    From: Shazeer 2019, arXiv 1911.02150 (MQA); Olsson et al. 2022, arXiv 2209.11895
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__(recipe, layer, 1)


class _Sparse(nn.Module):
    """Every so many layers an indexer picks each query's keys; those between share the pick.

    The softmax is the sparse kernel's own: the scores part and the position's bias play no role.
    """

    def __init__(self, recipe: Recipe, layer: int, every: int) -> None:
        super().__init__()
        self.heads, self.layer = recipe.heads, layer
        self.qkv = nn.Linear(recipe.width, 3 * recipe.width, bias=False)
        self.out = nn.Linear(recipe.width, recipe.width, bias=False)
        self.picks = layer % every == 0
        if self.picks:
            self.indexer = index_cache.LightningIndexer(recipe.width, 8, 16, recipe.window)

    def forward(self, x_BTD: Tensor, position: Position, shared: dict[str, Tensor]) -> Tensor:
        b, t, d = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(b, t, 3, self.heads, d // self.heads).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k = position.rotate(q), position.rotate(k)
        if self.picks:
            index = self.indexer.select(x_BTD)
            shared["index"] = index.indices
        else:
            index = index_cache.IndexSet(indices=shared["index"], queries=t, keys=t)
        attended = index_cache.sparse_attention(
            q, k, v, index, return_target=index.logits is not None
        )
        y_BTD: Tensor = self.out(attended.out.transpose(1, 2).reshape(b, t, d))
        if attended.target is None:
            return y_BTD
        index.add_target(self.layer, attended.target)
        return index_cache.attach_loss(y_BTD, index_cache.indexer_kl_loss(index), 1.0)


class SparseEvery(_Sparse):
    """Each query sees the keys that an indexer of its own layer picks.

    Why: Most keys do not matter, and each layer knows best which do.
    From: DeepSeek-AI 2025 (DSA)
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__(recipe, layer, 1)


class SparseShared(_Sparse):
    """Each query sees the keys an indexer picks; odd layers share the pick of the layer below.

    Why: Most keys do not matter, and neighbouring layers agree on which do.
    From: arXiv 2603.12201 (IndexCache); DeepSeek-AI 2025 (DSA)
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__(recipe, layer, 2)


class SparseQuarter(_Sparse):
    """Each query sees the keys an indexer picks; three layers share the pick of the one below.

    Why: One indexer in four layers costs a quarter, and picks nearly the same keys.
    From: arXiv 2603.12201 (IndexCache), pattern FSSS
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__(recipe, layer, 4)
