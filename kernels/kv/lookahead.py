"""The LookaheadKV module: learned lookahead tokens, and LoRA that acts on them alone.

Source: LookaheadKV, arXiv 2603.10899. The tokens P are soft input embeddings put after the
prompt; a LoRA on the model's linear maps is active at their positions only. Their attention to
the prompt predicts which keys the coming response will read. Prompt activations never change:
P comes later, and in variant B (used here) the prompt is already in the cache when P runs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightlab.kernels.kv import ops
from nightlab.kernels.kv.cache import KVCache, Probe
from nightlab.kernels.kv.contract import Decoder
from nightlab.kernels.kv.eviction import Prompt, observe
from nightlab.kernels.kv.scorers import SuffixWindow
from nightlab.kernels.kv.scores import Group, Over, Reduction


@dataclass(frozen=True, kw_only=True)
class LookaheadShape:
    """The options of a module that fix its parameters."""

    tokens: int = 32
    """n, the lookahead tokens."""
    rank: int = 8
    """LoRA rank r; 0 trains the tokens alone."""
    alpha: float = 32.0
    """LoRA scale is alpha / rank."""
    std: float = 0.02
    """Standard deviation of the tokens at the start (the paper does not say)."""


class LowRank(nn.Module):
    """The addition of one linear map: ``x A B`` times a scale; B starts at 0."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        like = linear.weight
        self.A = nn.Parameter(like.new_empty(rank, linear.in_features))
        self.B = nn.Parameter(like.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)
        self.scale = scale

    def over(
        self, plain: Callable[[Tensor], Tensor], last: int | None
    ) -> Callable[[Tensor], Tensor]:
        """``plain`` with the addition, at the ``last`` positions or (None) at all."""
        A, B, scale = self.A, self.B, self.scale

        def forward(x: Tensor) -> Tensor:
            y = plain(x)
            if last is None:
                return y.add_(F.linear(F.linear(x, A), B), alpha=scale)
            more = F.linear(F.linear(x[:, -last:], A), B)
            return torch.cat([y[:, :-last], y[:, -last:] + scale * more], dim=1)

        return forward


class Lookahead(nn.Module):
    """Tokens [n, D] and one :class:`LowRank` per adapted linear map of a decoder.

    The last layer adapts q and k only: its other maps cannot reach any score.
    """

    def __init__(self, model: Decoder, shape: LookaheadShape) -> None:
        super().__init__()
        self.shape = shape
        first = next(iter(model.linears()[0].values())).weight
        start = torch.randn(shape.tokens, model.shape.width) * shape.std
        self.tokens = nn.Parameter(start.to(first.device, first.dtype))
        self.adapters = nn.ModuleDict()
        if shape.rank == 0:
            return
        for name, linear in adapted(model):
            self.adapters[name] = LowRank(linear, shape.rank, shape.alpha / shape.rank)

    @contextmanager
    def attached(self, model: Decoder, *, last: int | None = None) -> Iterator[None]:
        """Add the LoRA to the model's linear maps within the block.

        ``last``: only at the last so many positions (variant A); None for all (variant B). Stands
        in for each map's ``forward``, which costs a third of what a hook does.
        """
        own = []
        try:
            for name, linear in adapted(model) if self.shape.rank > 0 else []:
                adapter = cast("LowRank", self.adapters[name])
                own.append((linear.__dict__, linear.__dict__.get("forward")))
                linear.__dict__["forward"] = adapter.over(linear.forward, last)
            yield
        finally:
            for names, before in own:
                if before is None:
                    del names["forward"]
                else:
                    names["forward"] = before

    def look(self, model: Decoder, cache: KVCache, reduction: Reduction | None = None) -> Probe:
        """Variant B: run the lookahead tokens against a finished prefill, which stays untouched."""
        batch = cache.kept(0).lengths.shape[0]
        with self.attached(model):
            return observe(model, cache, self.tokens.expand(batch, -1, -1), reduction)

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def save(self, path: Path) -> None:
        """Write a safetensors file with the shape in its metadata."""
        from safetensors.torch import save_file

        state = {name: t.detach().contiguous() for name, t in self.state_dict().items()}
        save_file(state, path, {k: str(v) for k, v in asdict(self.shape).items()})

    @staticmethod
    def load(path: Path, model: Decoder) -> "Lookahead":
        """Read what :meth:`save` wrote. Raises RuntimeError when it belongs to another model."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            meta = file.metadata()
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        module = Lookahead(
            model,
            LookaheadShape(
                tokens=int(meta["tokens"]),
                rank=int(meta["rank"]),
                alpha=float(meta["alpha"]),
                std=float(meta["std"]),
            ),
        )
        module.load_state_dict(state)
        return module


def adapted(model: Decoder) -> list[tuple[str, nn.Linear]]:
    """Names (layer and role) and maps that carry a LoRA; of the last layer, those to q and k."""
    layers = model.linears()
    return [
        (f"{i}_{role}", linear)
        for i, maps in enumerate(layers)
        for role, linear in maps.items()
        if i + 1 < len(layers) or role in ("q", "k", "qkv")
    ]


def masked_look(module: Lookahead, model: Decoder, tokens_BT: Tensor) -> list[Tensor]:
    """Variant A: one pass over prompt and lookahead tokens, LoRA masked to the latter.

    Returns scores [B, G, T] per layer; equal to variant B in exact arithmetic.
    """
    n, T = module.shape.tokens, tokens_BT.shape[1]
    cache = model.init_cache(tokens_BT.shape[0])
    cache.watch = n
    soft = module.tokens.expand(tokens_BT.shape[0], -1, -1)
    with module.attached(model, last=n):
        model.run(torch.cat([model.embed(tokens_BT), soft], dim=1), cache)
    scores = []
    for layer in range(cache.layers):
        k = cache.dense(layer)[0]
        scores.append(ops.lookahead_scores(cache.queries(layer), k[:, :, :T], k[:, :, T:]))
    return scores


@dataclass(frozen=True, kw_only=True)
class LookaheadScorer:
    """LookaheadKV's score: the mean attention of the lookahead tokens, variant B.

    ``mix`` adds that share of the suffix window's score (reference idea: neither knows all).
    """

    module: Lookahead
    group: Group = "mean"
    over: Over = "mean"
    mix: float = 0.0
    window: int = 8
    """Queries of the suffix window; used with ``mix`` only."""

    def watch(self, tokens: int) -> int:
        return min(self.window, tokens) if self.mix > 0 else 0

    def score(self, prompt: Prompt) -> list[Tensor]:
        how = Reduction(self.group, self.over)
        scores = self.module.look(prompt.model, prompt.cache, how).scores
        if self.mix == 0:
            return scores
        suffix = SuffixWindow(self.window, self.group).score(prompt)
        return [
            (1 - self.mix) * ours + self.mix * theirs
            for ours, theirs in zip(scores, suffix, strict=True)
        ]
