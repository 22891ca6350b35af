"""A decoder with a policy built in: what a program ships to be scored with eviction."""

from dataclasses import dataclass

from torch import Tensor

from nightlab.kernels.kv.cache import KVCache
from nightlab.kernels.kv.contract import Decoder
from nightlab.kernels.kv.eviction import Eviction, Prompt, budget_rows, evict


@dataclass(frozen=True)
class Evicting:
    """Implements :class:`nightlab.kernels.kv.contract.DecodeProgram` around a decoder.

    The first ``prefill`` of a cache is the prompt: after it ``share`` of its rows stay. Whatever
    comes later, in one piece or token by token, is kept.
    """

    model: Decoder
    policy: Eviction
    share: float
    """Of the prompt's rows per key/value head, averaged over the model."""

    def init_cache(self, batch: int) -> KVCache:
        return self.model.init_cache(batch)

    def prefill(self, tokens_BN: Tensor, cache: KVCache) -> Tensor:
        if cache.position > 0:
            return self.model.prefill(tokens_BN, cache)
        cache.watch = self.policy.watch(tokens_BN.shape[1])
        logits = self.model.prefill(tokens_BN, cache)
        prompt = Prompt(self.model, tokens_BN, logits, cache)
        return evict(prompt, self.policy, budget_rows(self.share, tokens_BN.shape[1])).logits

    def step(self, tokens_B: Tensor, cache: KVCache) -> Tensor:
        return self.model.step(tokens_B, cache)
