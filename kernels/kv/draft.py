"""LAQ: draft an answer from a cheap cache, then score the whole cache with the draft's queries."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nightlab.kernels.kv import ops
from nightlab.kernels.kv.eviction import Prompt, Scored
from nightlab.kernels.kv.scorers import SuffixWindow, before_window
from nightlab.kernels.kv.scores import Group
from nightlab.kernels.kv.selection import Kept


@dataclass(frozen=True)
class Draft:
    """Lookahead Q-Cache (arXiv 2505.20334) in its two-stage form, the costly upper baseline.

    Stage 1: SnapKV keeps ``budget`` rows in a second cache (window ``window``, pool ``pool``).
    Stage 2: greedy decode of ``steps`` tokens from it. Stage 3: mean attention of the last
    ``own_window`` prompt queries and of the draft's queries over the whole prompt.
    """

    budget: int
    """Rows per head of the drafting cache; the registry sets it to the policy's own budget."""
    steps: int = 8
    window: int = 32
    pool: int = 7
    own_window: int = 8
    group: Group = "mean"

    def watch(self, tokens: int) -> int:
        return min(max(self.window, self.own_window), tokens)

    def score(self, prompt: Prompt) -> list[Tensor]:
        queries, keys = self._draft(prompt)
        T = prompt.cache.position
        w = min(self.own_window, T)
        scores = []
        for layer, (q_draft, k_draft) in enumerate(zip(queries, keys, strict=True)):
            k = prompt.cache.dense(layer)[0]
            q = torch.cat([prompt.cache.queries(layer)[:, :, -w:], q_draft], dim=2)
            own = torch.cat([k[:, :, T - w :], k_draft], dim=2)
            s = ops.lookahead_scores(q, k[:, :, : T - w], own, group=self.group)
            scores.append(before_window(s, w))
        return scores

    def _draft(self, prompt: Prompt) -> tuple[list[Tensor], list[Tensor]]:
        first = Scored(scorer=SuffixWindow(self.window), recent=self.window, pool=self.pool)
        plan = [(k.index, k.lengths) for k in first.plan(prompt, self.budget)]
        cache = prompt.cache.fork()
        cache.compact(plan)
        cache.watch = self.steps
        logits = prompt.logits
        for _ in range(self.steps):
            logits = prompt.model.step(logits.argmax(dim=-1), cache)
        queries = [cache.queries(layer) for layer in range(cache.layers)]
        tails = [cache.tail(layer) for layer in range(cache.layers)]
        return queries, [tail.k for tail in tails if tail is not None]


@dataclass(frozen=True)
class DraftEviction:
    """LAQ as a policy: the drafting cache gets the same budget as the final one."""

    steps: int = 8
    window: int = 32
    pool: int = 7
    own_window: int = 8

    def watch(self, tokens: int) -> int:
        return self._policy(1).watch(tokens)

    def plan(self, prompt: Prompt, budget: int) -> list[Kept]:
        return self._policy(budget).plan(prompt, budget)

    def _policy(self, budget: int) -> Scored:
        scorer = Draft(budget, self.steps, self.window, self.pool, self.own_window)
        return Scored(scorer=scorer, recent=self.own_window, pool=self.pool)
