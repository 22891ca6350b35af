"""Variants of the eviction part: what of a context's cache stays before any question is known."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

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


class Streaming(_Evicting):
    """The first tokens and the last ones stay.

    Why: What is near matters most, and the first tokens are where idle heads look.
    From: Xiao et al. 2023, arXiv 2309.17453 (StreamingLLM)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(kv.policy("streaming", kv.Setup(sinks=4)), recipe.keep)


class HeavyHitters(_Evicting):
    """What the whole context attended to stays, beside its last tokens.

    Why: What many tokens looked at will be looked at again.
    From: Zhang et al. 2023, arXiv 2306.14048 (H2O), evicting once
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(kv.policy("h2o", kv.Setup()), recipe.keep)


class Suffix(_Evicting):
    """What the context's last tokens attend to stays, and those tokens.

    Why: The end of a context looks where its continuation will look.
    From: Li et al. 2024, arXiv 2404.14469 (SnapKV)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(kv.policy("snapkv", kv.Setup(window=16, pool=3)), recipe.keep)


class Pyramid(_Evicting):
    """As SnapKV, with larger budgets for early layers.

    Why: Early layers spread their attention, late ones know where to look.
    From: Cai et al. 2024, arXiv 2406.02069 (PyramidKV)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(kv.policy("pyramidkv", kv.Setup(window=16, pool=3)), recipe.keep)


class HeadBudgets(_Evicting):
    """As SnapKV, with larger budgets for heads that spread their attention.

    Why: A head that looks everywhere loses more by eviction than one that looks at a few places.
    From: Feng et al. 2024, arXiv 2407.11550 (AdaKV)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(kv.policy("adakv", kv.Setup(window=16, pool=3)), recipe.keep)


class Reconstructed(_Evicting):
    """What is needed to repeat the context stays, one threshold for all heads.

    Why: Whatever a question asks, its answer needs no more than the context itself does.
    From: Kim et al. 2025, arXiv 2505.23416 (KVzip)
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(kv.policy("kvzip", kv.Setup(sinks=4)), recipe.keep)
