"""Variants of the eviction part: what of a context's cache stays before any question is known."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nightlab.evals.tasks.recall.program import VOCABULARY
from nightlab.evals.tasks.recall.program import Recipe as Baseline
from nightlab.kernels import kv


@dataclass(frozen=True)
class Recipe(Baseline):
    """Dials that only these variants read."""

    keep: float = 0.25


class _Evicting:
    """A policy of the kernels and the share of a context's rows that it keeps."""

    approximate = True

    def __init__(self, policy: kv.Eviction, keep: float) -> None:
        self.policy, self.keep = policy, keep

    def watch(self, tokens: int) -> int:
        return self.policy.watch(tokens)

    def __call__(self, model: Any, tokens_BT: Tensor, logits_BV: Tensor, cache: Any) -> None:
        rows = kv.budget_rows(self.keep, tokens_BT.shape[1])
        kv.evict(kv.Prompt(model, tokens_BT, logits_BV, cache), self.policy, rows)

    def learn(self, model: Any, tokens_BT: Tensor) -> Tensor | float:
        return 0.0


class Streaming(_Evicting):
    """The first tokens and the last ones stay.

    Why: What is near matters most, and the first tokens are where idle heads look.
    From: Xiao et al. 2023, arXiv 2309.17453 (StreamingLLM)
    """

    def __init__(self, recipe: Recipe, model: Any) -> None:
        super().__init__(kv.policy("streaming", kv.Setup(sinks=4)), recipe.keep)


class HeavyHitters(_Evicting):
    """What the whole context attended to stays, beside its last tokens.

    Why: What many tokens looked at will be looked at again.
    From: Zhang et al. 2023, arXiv 2306.14048 (H2O), evicting once
    """

    def __init__(self, recipe: Recipe, model: Any) -> None:
        super().__init__(kv.policy("h2o", kv.Setup()), recipe.keep)


class Suffix(_Evicting):
    """What the context's last tokens attend to stays, and those tokens.

    Why: The end of a context looks where its continuation will look.
    From: Li et al. 2024, arXiv 2404.14469 (SnapKV)
    """

    def __init__(self, recipe: Recipe, model: Any) -> None:
        super().__init__(kv.policy("snapkv", kv.Setup(window=16, pool=3)), recipe.keep)


class Pyramid(_Evicting):
    """As SnapKV, with larger budgets for early layers.

    Why: Early layers spread their attention, late ones know where to look.
    From: Cai et al. 2024, arXiv 2406.02069 (PyramidKV)
    """

    def __init__(self, recipe: Recipe, model: Any) -> None:
        super().__init__(kv.policy("pyramidkv", kv.Setup(window=16, pool=3)), recipe.keep)


class HeadBudgets(_Evicting):
    """As SnapKV, with larger budgets for heads that spread their attention.

    Why: A head that looks everywhere loses more by eviction than one that looks at a few places.
    From: Feng et al. 2024, arXiv 2407.11550 (AdaKV)
    """

    def __init__(self, recipe: Recipe, model: Any) -> None:
        super().__init__(kv.policy("adakv", kv.Setup(window=16, pool=3)), recipe.keep)


class Reconstructed(_Evicting):
    """What is needed to repeat the context stays, one threshold for all heads.

    Why: Whatever a question asks, its answer needs no more than the context itself does.
    From: Kim et al. 2025, arXiv 2505.23416 (KVzip)
    """

    def __init__(self, recipe: Recipe, model: Any) -> None:
        super().__init__(kv.policy("kvzip", kv.Setup(sinks=4)), recipe.keep)


class Drafted(_Evicting):
    """What the model's own draft of a continuation attends to stays, and the last tokens.

    Why: A guess at what comes next asks nearer to what will be asked than the context's end does.
    From: Wang et al. 2025, arXiv 2505.20334 (LAQ)
    """

    def __init__(self, recipe: Recipe, model: Any) -> None:
        setup = kv.Setup(window=16, pool=3, draft_steps=8, draft_window=8)
        super().__init__(kv.policy("laq", setup), recipe.keep)


class Expected(_Evicting):
    """What queries like those of the context are expected to attend to, by the size of its values.

    Why: Later queries come from the same distribution, only turned on by their positions.
    From: Devoto et al. 2025, arXiv 2510.00636 (Expected Attention)
    """

    def __init__(self, recipe: Recipe, model: Any) -> None:
        super().__init__(kv.policy("expected", kv.Setup(sinks=4)), recipe.keep)


class _Learned(_Evicting, nn.Module):
    """Lookahead tokens and low-rank maps of their own, learned beside the rest of the model.

    Every fourth step the attention of a row's own questions and answers is imitated. No weight of
    the model gets a gradient of it.
    """

    every = 4
    weight = 0.01  # Adam takes no notice; the limit on the gradient's norm is left to the rest

    def __init__(self, policy: str, recipe: Recipe, model: Any) -> None:
        nn.Module.__init__(self)
        self.module = kv.Lookahead(model, kv.LookaheadShape(tokens=8, rank=4, alpha=16.0))
        _Evicting.__init__(self, kv.policy(policy, kv.Setup(module=self.module)), recipe.keep)
        self.calls = 0

    def learn(self, model: Any, tokens_BT: Tensor) -> Tensor | float:
        self.calls += 1
        if self.calls % self.every or not model.decodes:
            return 0.0
        at = _questions(tokens_BT)
        context_BT, response_BT = tokens_BT[:, :at], tokens_BT[:, at:]
        cache = model.init_cache(len(tokens_BT))
        with torch.no_grad():
            model.run(model.embed(context_BT), cache)
        prompt = kv.Prompt(model, context_BT, tokens_BT.new_zeros(0), cache)
        loss = kv.imitation_loss(self.module, prompt, response_BT, kv.TrainConfig())
        return self.weight * loss


def _questions(tokens_BT: Tensor) -> int:
    """Where the questions begin: the first place that holds one of their marks in all rows."""
    marks = (tokens_BT >= VOCABULARY - 3).all(0).nonzero()
    least, most = 1, tokens_BT.shape[1] - 1
    at = int(marks[0, 0]) if len(marks) else 2 * most // 3
    return min(max(at, least), most)


class Lookahead(_Learned):
    """What learned lookahead tokens attend to stays: they stand for the questions to come.

    Why: What questions look for can be learned once; a context's end does not know it.
    From: LookaheadKV 2026, arXiv 2603.10899
    """

    def __init__(self, recipe: Recipe, model: Any) -> None:
        super().__init__("lookahead", recipe, model)


class LookaheadHeads(_Learned):
    """As LookaheadKV, with head budgets and scores weighted by what a value can do.

    Why: A head that looks everywhere needs more rows, and a large value moves the output more.
    From: LookaheadKV 2026, arXiv 2603.10899, with AdaKV's budgets and CriticalKV's weight
    """

    def __init__(self, recipe: Recipe, model: Any) -> None:
        super().__init__("lookahead+heads", recipe, model)
