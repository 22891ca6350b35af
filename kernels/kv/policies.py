"""The registry of policies by name, each with the definition it stands for.

``make`` scales windows and pools by :class:`Setup`, so that one setup serves a short context; a
result always prints the definition beside the name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nightlab.kernels.kv.draft import DraftEviction
from nightlab.kernels.kv.eviction import Eviction, Full, Scored
from nightlab.kernels.kv.lookahead import Lookahead, LookaheadScorer
from nightlab.kernels.kv.scorers import (
    Cumulative,
    Expected,
    Flat,
    Reconstruction,
    SuffixWindow,
    Uniform,
)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the policies of one comparison share. Defaults are those of 16k-token prompts."""

    window: int = 32
    """Suffix window of SnapKV and PyramidKV, and of LAQ's first stage."""
    pool: int = 7
    """Max-pool width of SnapKV, PyramidKV, LAQ."""
    sinks: int = 4
    draft_steps: int = 8
    draft_window: int = 8
    """Prompt queries that LAQ's last stage adds, and its recent rows."""
    lookahead_pool: int = 1
    lookahead_recent: int = 0
    lookahead_mix: float = 0.5
    """Share of the suffix window in ``lookahead+window``."""
    seed: int = 0
    module: Lookahead | None = None
    """The trained module; policies that need one are absent without."""


@dataclass(frozen=True)
class Policy:
    """One entry of the registry."""

    definition: str
    make: Callable[[Setup], Eviction]
    learned: bool = False
    """Whether ``Setup.module`` is needed."""


def _module(setup: Setup) -> Lookahead:
    if setup.module is None:
        raise ValueError("this policy needs a trained module: train one with train_lookahead")
    return setup.module


def _suffix(setup: Setup) -> SuffixWindow:
    return SuffixWindow(setup.window)


def _lookahead(setup: Setup, mix: float = 0.0) -> LookaheadScorer:
    return LookaheadScorer(module=_module(setup), mix=mix, window=setup.draft_window)


POLICIES: Mapping[str, Policy] = {
    "full": Policy("every row", lambda _: Full()),
    "random": Policy("uniform scores", lambda s: Scored(scorer=Uniform(s.seed))),
    "streaming": Policy(
        "StreamingLLM: first `sinks` tokens and the most recent",
        lambda s: Scored(scorer=Flat(), sinks=s.sinks),
    ),
    "h2o": Policy(
        "H2O: column sums of the whole causal attention, half the budget recent, evicted once",
        lambda _: Scored(scorer=Cumulative(), recent_share=0.5),
    ),
    "snapkv": Policy(
        "SnapKV: mean attention of the last `window` queries, max-pool `pool`, window kept",
        lambda s: Scored(scorer=_suffix(s), recent=s.window, pool=s.pool),
    ),
    "pyramidkv": Policy(
        "PyramidKV: SnapKV with layer budgets falling linearly, beta 20, mean exact",
        lambda s: Scored(scorer=_suffix(s), recent=s.window, pool=s.pool, allocation="layers"),
    ),
    "adakv": Policy(
        "AdaKV: SnapKV with head budgets, floor 0.2",
        lambda s: Scored(scorer=_suffix(s), recent=s.window, pool=s.pool, allocation="heads"),
    ),
    "expected": Policy(
        "Expected Attention: 512 future positions, value norm, `sinks` kept",
        lambda s: Scored(scorer=Expected(sinks=s.sinks), sinks=s.sinks),
    ),
    "kvzip": Policy(
        "KVzip: maximum attention while the context is repeated, one threshold for all heads",
        lambda s: Scored(scorer=Reconstruction(), allocation="model", floor=0.0, sinks=s.sinks),
    ),
    "laq": Policy(
        "LAQ: SnapKV to the same budget, greedy draft of `draft_steps`, rescore with draft and "
        "last `draft_window` queries",
        lambda s: DraftEviction(s.draft_steps, s.window, s.pool, s.draft_window),
    ),
    "lookahead": Policy(
        "LookaheadKV: mean attention of the lookahead tokens, even budgets",
        lambda s: Scored(scorer=_lookahead(s), pool=s.lookahead_pool, recent=s.lookahead_recent),
        learned=True,
    ),
    "lookahead+heads": Policy(
        "LookaheadKV with AdaKV head budgets and |W_o v| weighting",
        lambda s: Scored(
            scorer=_lookahead(s),
            pool=s.lookahead_pool,
            recent=s.lookahead_recent,
            allocation="heads",
            weight="output",
        ),
        learned=True,
    ),
    "lookahead+window": Policy(
        "LookaheadKV mixed with the suffix window's score, window kept",
        lambda s: Scored(
            scorer=_lookahead(s, s.lookahead_mix), pool=s.lookahead_pool, recent=s.draft_window
        ),
        learned=True,
    ),
}


def policy(name: str, setup: Setup) -> Eviction:
    """The named policy. Raises ValueError for an unknown name or a missing module."""
    if name not in POLICIES:
        raise ValueError(f"no eviction policy {name!r}; there are {', '.join(POLICIES)}")
    return POLICIES[name].make(setup)
