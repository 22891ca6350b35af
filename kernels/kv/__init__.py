"""KV-cache eviction after prefill: a cache that frees what it evicts, the policies, LookaheadKV.

Start with :func:`prefill_and_evict` and :func:`generate`; the contract a decoder keeps is in
:mod:`nightlab.kernels.kv.contract`.
"""

from nightlab.kernels.kv.cache import KVCache, Probe
from nightlab.kernels.kv.contract import Attending, DecodeProgram, Decoder, DecoderShape
from nightlab.kernels.kv.evicting import Evicting
from nightlab.kernels.kv.eviction import (
    Eviction,
    Prefilled,
    Prompt,
    Scored,
    Scorer,
    budget_rows,
    evict,
    generate,
    prefill_and_evict,
    read_prompt,
)
from nightlab.kernels.kv.lookahead import Lookahead, LookaheadScorer, LookaheadShape
from nightlab.kernels.kv.policies import POLICIES, Policy, Setup, policy
from nightlab.kernels.kv.train import (
    Example,
    Progress,
    TrainConfig,
    imitation_loss,
    train_lookahead,
)

__all__ = [
    "POLICIES",
    "Attending",
    "DecodeProgram",
    "Decoder",
    "DecoderShape",
    "Evicting",
    "Eviction",
    "Example",
    "KVCache",
    "Lookahead",
    "LookaheadScorer",
    "LookaheadShape",
    "Policy",
    "Prefilled",
    "Probe",
    "Progress",
    "Prompt",
    "Scored",
    "Scorer",
    "Setup",
    "TrainConfig",
    "budget_rows",
    "evict",
    "generate",
    "imitation_loss",
    "policy",
    "prefill_and_evict",
    "read_prompt",
    "train_lookahead",
]
