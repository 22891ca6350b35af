"""Training-free scorers. Each docstring pins the definition that is used; code bases differ."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nightlab.kernels.kv import ops
from nightlab.kernels.kv.contract import Decoder
from nightlab.kernels.kv.eviction import Prompt, observe
from nightlab.kernels.kv.scores import Group, Over, Reduction, cumulative_scores


@dataclass(frozen=True)
class Flat:
    """Recency alone: with forced sinks this is StreamingLLM (arXiv 2309.17453)."""

    def watch(self, tokens: int) -> int:
        return 0

    def score(self, prompt: Prompt) -> list[Tensor]:
        """Later is better, so that a budget beyond the forced rows extends the recent window."""
        scores = []
        for layer in range(prompt.cache.layers):
            k = prompt.cache.dense(layer)[0]
            B, G, T, _ = k.shape
            at = torch.arange(1, T + 1, device=k.device, dtype=torch.float32) / T
            scores.append(at.expand(B, G, T))
        return scores


@dataclass(frozen=True)
class Uniform:
    """Random scores from a seed: the floor."""

    seed: int = 0

    def watch(self, tokens: int) -> int:
        return 0

    def score(self, prompt: Prompt) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        caches = (prompt.cache.dense(layer)[0] for layer in range(prompt.cache.layers))
        return [torch.rand(k.shape[:3], generator=generator).to(k.device) for k in caches]


@dataclass(frozen=True)
class SuffixWindow:
    """SnapKV (arXiv 2404.14469): mean attention of the last ``window`` queries over all keys.

    The window's own rows score 0: the policy forces them. A window longer than the prompt is cut
    to it.
    """

    window: int = 32
    group: Group = "mean"

    def watch(self, tokens: int) -> int:
        return min(self.window, tokens)

    def score(self, prompt: Prompt) -> list[Tensor]:
        return [self._layer(prompt, layer) for layer in range(prompt.cache.layers)]

    def _layer(self, prompt: Prompt, layer: int) -> Tensor:
        k = prompt.cache.dense(layer)[0]
        w = min(self.window, k.shape[2])
        q = prompt.cache.queries(layer)[:, :, -w:]
        far, own = k[:, :, : k.shape[2] - w], k[:, :, k.shape[2] - w :]
        return before_window(ops.lookahead_scores(q, far, own, group=self.group), w)


def before_window(s_BGT: Tensor, window: int) -> Tensor:
    """Scores of the rows before a window, then zeros: a policy forces the window itself."""
    return F.pad(s_BGT, (0, window))


@dataclass(frozen=True)
class Cumulative:
    """H2O (arXiv 2306.14048): column sums of the whole T x T attention, evicted once after prefill.

    The paper also evicts during decode; here every policy evicts once, so that all hold the same
    bytes. Half the budget is recent (``recent_share`` of the policy).
    """

    group: Group = "mean"

    def watch(self, tokens: int) -> int:
        return tokens

    def score(self, prompt: Prompt) -> list[Tensor]:
        layers = range(prompt.cache.layers)
        pairs = ((prompt.cache.queries(i), prompt.cache.dense(i)[0]) for i in layers)
        return [cumulative_scores(q, k, group=self.group) for q, k in pairs]


@dataclass(frozen=True)
class Expected:
    """Expected Attention (arXiv 2510.00636), as in kvpress without the AdaKV wrapper.

    ``softmax_j(mu.k_j / sqrt d + k_j' Sigma k_j / (2 d)) * |v_j|``, with mean and covariance of
    the prompt's un-rotated queries (the first ``sinks`` left out) carried through the mean
    rotation of the next ``future`` positions; mean over the group.
    """

    future: int = 512
    sinks: int = 4

    def watch(self, tokens: int) -> int:
        return tokens

    def score(self, prompt: Prompt) -> list[Tensor]:
        return [self._layer(prompt, layer) for layer in range(prompt.cache.layers)]

    def _layer(self, prompt: Prompt, layer: int) -> Tensor:
        k, v = prompt.cache.dense(layer)
        q = prompt.cache.queries(layer)
        (B, H, T, d), G = q.shape, k.shape[1]
        mu_BHd, cov_BHdd = self._moments(prompt.model, q)
        turn = _mean_rotation(prompt.model, T, self.future, q)
        mu = (mu_BHd @ turn).view(B, G, H // G, d)
        cov = (turn.T @ cov_BHdd @ turn).view(B, G, H // G, d, d)
        kf = k.float()
        logit = torch.einsum("bghd,bgtd->bght", mu, kf) * d**-0.5
        # One query head at a time: the full einsum would hold H/G copies of the keys.
        for h in range(H // G):
            logit[:, :, h] += ((kf @ cov[:, :, h]) * kf).sum(dim=-1) / (2 * d)
        norm: Tensor = torch.linalg.vector_norm(v.float(), dim=-1)
        row: Tensor = logit.softmax(dim=-1).mean(dim=2)
        return row * norm

    def _moments(self, model: Decoder, q_BHTd: Tensor) -> tuple[Tensor, Tensor]:
        T = q_BHTd.shape[2]
        plain = model.rotate(q_BHTd, -torch.arange(T, device=q_BHTd.device)).float()
        plain = plain[:, :, min(self.sinks, max(T - 2, 0)) :]
        mu = plain.mean(dim=2)
        apart = plain - mu[:, :, None]
        return mu, apart.transpose(-1, -2) @ apart / max(apart.shape[2], 1)


def _mean_rotation(model: Decoder, start: int, count: int, like: Tensor) -> Tensor:
    """The rotation averaged over ``count`` future positions, as a matrix M with rows x -> x M."""
    d = like.shape[-1]
    eye = torch.eye(d, device=like.device, dtype=like.dtype)
    positions = torch.arange(start, start + count, device=like.device)
    turned = model.rotate(eye[None, :, None].expand(1, d, count, d), positions)
    return turned.float().mean(dim=2)[0]


@dataclass(frozen=True)
class Reconstruction:
    """KVzip (arXiv 2505.23416): how much each row is needed to repeat the context.

    The context is fed again after the prompt, in chunks, as a probe; a row's score is the maximum
    attention over the chunk's queries and over the group. ``lead`` are tokens put before each
    repetition ("repeat the text:"); none by default.
    """

    lead: tuple[int, ...] = ()
    chunk: int = 2048
    over: Over = "max"

    def watch(self, tokens: int) -> int:
        return 0

    def score(self, prompt: Prompt) -> list[Tensor]:
        best: list[Tensor] = []
        for part in torch.split(prompt.tokens, self.chunk, dim=1):
            lead = part.new_tensor(self.lead).expand(part.shape[0], -1)
            seen = self._chunk(prompt, torch.cat([lead, part], dim=1))
            best = (
                seen if not best else [torch.maximum(a, b) for a, b in zip(best, seen, strict=True)]
            )
        return best

    def _chunk(self, prompt: Prompt, tokens_BN: Tensor) -> list[Tensor]:
        how = Reduction("max", self.over)
        return observe(prompt.model, prompt.cache, prompt.model.embed(tokens_BN), how).scores


@dataclass(frozen=True)
class Oracle:
    """The ground truth: mean attention of the true response's queries (s_GT). The ceiling."""

    response: Tensor
    """[B, N] (int64), the true response."""
    group: Group = "mean"

    def watch(self, tokens: int) -> int:
        return 0

    def score(self, prompt: Prompt) -> list[Tensor]:
        how = Reduction(self.group)
        return observe(prompt.model, prompt.cache, prompt.model.embed(self.response), how).scores
