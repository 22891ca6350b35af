"""Variants of the scores: how much each token takes from which predecessor.

B batch, H heads, T tokens, D head width. Rows are queries, columns are keys.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nightlab.evals.tasks.byte_lm.program import Recipe as Baseline


@dataclass(frozen=True)
class Recipe(Baseline):
    """Dials that only these variants read."""

    window: int = 32


def _logits(q_BHTD: Tensor, k_BHTD: Tensor, bias_HTT: Tensor | None) -> Tensor:
    """Scaled dot products, with the position's bias: (B, H, T, T)."""
    logits_BHTT = (q_BHTD * q_BHTD.shape[-1] ** -0.5) @ k_BHTD.mT
    return logits_BHTT if bias_HTT is None else logits_BHTT + bias_HTT


def _future(length: int, device: torch.device) -> Tensor:
    """True where a key comes after its query: (T, T)."""
    return torch.ones(length, length, dtype=torch.bool, device=device).triu(1)


class QkNorm(nn.Module):
    """Causal softmax over normalised queries and keys, at a learned temperature per head.

    Why: Scores that cannot grow with the weights allow a higher learning rate.
    From: Henry et al. 2020, arXiv 2010.04245; Dehghani et al. 2023, arXiv 2302.05442
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((recipe.heads, 1, 1), 1.5))

    def forward(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        bias_HTT: Tensor | None,
        shared: dict[str, Tensor],
    ) -> Tensor:
        q_BHTD = self.gain * F.rms_norm(q_BHTD, (q_BHTD.shape[-1],), eps=1e-6)
        k_BHTD = F.rms_norm(k_BHTD, (k_BHTD.shape[-1],), eps=1e-6)
        if bias_HTT is None:
            return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        mask_HTT = bias_HTT.masked_fill(_future(q_BHTD.shape[2], q_BHTD.device), -math.inf)
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=mask_HTT)


class Softcap(nn.Module):
    """Causal softmax over logits that a tanh keeps within 15 of zero.

    Why: A bound on the logits stops single tokens from taking over early.
    From: Gemma Team 2024, arXiv 2408.00118
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()

    def forward(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        bias_HTT: Tensor | None,
        shared: dict[str, Tensor],
    ) -> Tensor:
        logits_BHTT = 15.0 * torch.tanh(_logits(q_BHTD / 15.0, k_BHTD, None))
        future_TT = _future(q_BHTD.shape[2], q_BHTD.device)
        mask = torch.zeros_like(future_TT, dtype=q_BHTD.dtype) if bias_HTT is None else bias_HTT
        return (logits_BHTT + mask.masked_fill(future_TT, -math.inf)).softmax(-1) @ v_BHTD


class Sigmoid(nn.Module):
    """A sigmoid per pair of tokens: how much one takes does not depend on the others.

    Why: Without competition a token can attend to all that fits, or to nothing.
    From: Ramapuram et al. 2024, arXiv 2409.04431, with a bias that follows the row's length
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(recipe.heads, 1, 1))

    def forward(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        bias_HTT: Tensor | None,
        shared: dict[str, Tensor],
    ) -> Tensor:
        length = q_BHTD.shape[2]
        seen_T1 = torch.arange(1, length + 1, device=q_BHTD.device)[:, None]
        logits_BHTT = _logits(q_BHTD, k_BHTD, bias_HTT) + self.bias - seen_T1.log()
        future_TT = _future(length, q_BHTD.device)
        return torch.sigmoid(logits_BHTT).masked_fill(future_TT, 0.0) @ v_BHTD


class SlidingWindow(nn.Module):
    """Causal softmax over the last few tokens only.

    Why: Near bytes carry most of the news, and a short list is easier to attend to.
    From: Beltagy et al. 2020, arXiv 2004.05150; Jiang et al. 2023, arXiv 2310.06825
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.window = recipe.window

    def forward(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        bias_HTT: Tensor | None,
        shared: dict[str, Tensor],
    ) -> Tensor:
        length = q_BHTD.shape[2]
        ones_TT = torch.ones(length, length, dtype=torch.bool, device=q_BHTD.device)
        near_TT = ones_TT.tril() & ones_TT.triu(1 - self.window)
        if bias_HTT is None:
            return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=near_TT)
        mask_HTT = bias_HTT.masked_fill(~near_TT, -math.inf)
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=mask_HTT)


class LocalGlobal(nn.Module):
    """Even layers see the last few tokens only, odd layers see all.

    Why: Layers that only look near by leave the far look-ups to the others.
    From: Child et al. 2019, arXiv 1904.10509; Gemma Team 2024, arXiv 2408.00118
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.window = recipe.context if layer % 2 else recipe.window

    def forward(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        bias_HTT: Tensor | None,
        shared: dict[str, Tensor],
    ) -> Tensor:
        length = q_BHTD.shape[2]
        ones_TT = torch.ones(length, length, dtype=torch.bool, device=q_BHTD.device)
        near_TT = ones_TT.tril() & ones_TT.triu(1 - self.window)
        if bias_HTT is None:
            return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=near_TT)
        mask_HTT = bias_HTT.masked_fill(~near_TT, -math.inf)
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=mask_HTT)


class Sink(nn.Module):
    """Causal softmax with a learned key in front that has nothing to give.

    Why: A head with nothing to say should not have to average its predecessors.
    From: Xiao et al. 2023, arXiv 2309.17453; OpenAI 2025, arXiv 2508.10925 (gpt-oss)
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.zeros(recipe.heads, 1, recipe.width // recipe.heads))

    def forward(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        bias_HTT: Tensor | None,
        shared: dict[str, Tensor],
    ) -> Tensor:
        b, _, t, _ = q_BHTD.shape
        k_BHTD = torch.cat((self.key.expand(b, -1, -1, -1), k_BHTD), 2)
        v_BHTD = F.pad(v_BHTD, (0, 0, 1, 0))
        past = F.pad(~_future(t, q_BHTD.device), (1, 0), value=True)
        if bias_HTT is not None:
            past = F.pad(bias_HTT, (1, 0)).masked_fill(~past, -math.inf)
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=past)


class LengthScaled(nn.Module):
    """Causal softmax whose temperature falls with the logarithm of the row's length.

    Why: Without it attention fades as the row grows, because there is more to share among.
    From: Nakanishi 2025, arXiv 2501.19399, eq. 3
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((recipe.heads, 1, 1), 1 / math.log(recipe.context + 1)))

    def forward(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        bias_HTT: Tensor | None,
        shared: dict[str, Tensor],
    ) -> Tensor:
        length = q_BHTD.shape[2]
        seen_T1 = torch.arange(2, length + 2, device=q_BHTD.device)[:, None]
        q_BHTD = q_BHTD * self.gain * seen_T1.log()
        if bias_HTT is None:
            return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        mask_HTT = bias_HTT.masked_fill(_future(length, q_BHTD.device), -math.inf)
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=mask_HTT)


class TopKeys(nn.Module):
    """Causal softmax over each query's best keys only, as many as the window is long.

    Why: What scores low is noise; leaving it out sharpens attention, and could be skipped.
    From: Gupta et al. 2021, arXiv 2106.06899
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.window = recipe.window

    def forward(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        bias_HTT: Tensor | None,
        shared: dict[str, Tensor],
    ) -> Tensor:
        length = q_BHTD.shape[2]
        logits_BHTT = _logits(q_BHTD, k_BHTD, bias_HTT)
        logits_BHTT = logits_BHTT.masked_fill(_future(length, q_BHTD.device), -math.inf)
        best_BHTK = logits_BHTT.detach().topk(min(self.window, length), sorted=False).values
        dropped_BHTT = logits_BHTT < best_BHTK.amin(-1, keepdim=True)
        return logits_BHTT.masked_fill(dropped_BHTT, -math.inf).softmax(-1) @ v_BHTD


class StickBreaking(nn.Module):
    """Each token breaks its share off what nearer tokens have left, in place of a softmax.

    Why: The nearest good match wins, which orders attention without any positions.
    From: Tan et al. 2024, arXiv 2410.17980, eq. 3
    """

    def __init__(self, recipe: Recipe, layer: int) -> None:
        super().__init__()

    def forward(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        bias_HTT: Tensor | None,
        shared: dict[str, Tensor],
    ) -> Tensor:
        logits_BHTT = _logits(q_BHTD, k_BHTD, bias_HTT)
        future_TT = _future(q_BHTD.shape[2], q_BHTD.device)
        log_share_BHTT = F.logsigmoid(logits_BHTT)
        left_BHTT = (log_share_BHTT - logits_BHTT).masked_fill(future_TT, 0.0)
        nearer_BHTT = left_BHTT.sum(-1, keepdim=True) - left_BHTT.cumsum(-1)
        log_share_BHTT = log_share_BHTT + nearer_BHTT
        return log_share_BHTT.exp().masked_fill(future_TT, 0.0) @ v_BHTD
