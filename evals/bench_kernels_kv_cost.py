"""What eviction costs in time, and what it frees in memory as the operating system sees it."""

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from nightlab.kernels.kv import POLICIES, Lookahead, Prompt, Setup, evict, policy, read_prompt
from nightlab.kernels.kv.decoder import TinyDecoder

CHILD = """
import sys, torch
from nightlab.kernels.kv import KVCache
from nightlab.kernels.kv.selection import select_rows
share, tokens, layers = float(sys.argv[1]), 16384, 4
def fill(tokens):
    cache = KVCache(layers)
    for layer in range(layers):
        cache.adopt(layer, torch.ones(1, 4, tokens, 64), torch.ones(1, 4, tokens, 64))
    return cache
def drop(cache, tokens, share):
    lengths = torch.tensor([[0.5, 1.5, 1.0, 1.0]]) if share < 1 else torch.ones(1, 4)
    kept = select_rows(torch.rand(1, 4, tokens), (lengths * share * tokens).long())
    cache.compact([(kept.index, kept.lengths)] * layers)
drop(fill(64), 64, 0.5)
print("ready", flush=True)
sys.stdin.readline()
cache = fill(tokens)
drop(cache, tokens, share)
print("ready", flush=True)
sys.stdin.readline()
"""


@dataclass(frozen=True)
class Cost:
    """CPU time of one policy on one prompt length; batch 1, one thread.

    The least of the repeats is the estimate: on a shared machine the rest measures the neighbours.
    """

    prefill_ms: float
    """Least of the repeats, without any policy."""
    evict_ms: float
    """Least of the repeats, for scoring, selection and compaction."""
    evict_median_ms: float
    """Median of the same repeats: how far they were disturbed."""


def resident(share: float) -> int:
    """Bytes a process grew by, read by its parent, when it keeps ``share`` of a 128 MiB cache.

    Heads keep unequal numbers of rows.
    """
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(share)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        seen = []
        assert child.stdin is not None
        assert child.stdout is not None
        for _ in range(2):
            if child.stdout.readline() != "ready\n":
                raise RuntimeError("the process that holds the cache ended early")
            pages = Path(f"/proc/{child.pid}/statm").read_text().split()[1]
            seen.append(int(pages) * 4096)
            child.stdin.write("\n")
            child.stdin.flush()
    return seen[1] - seen[0]


def timings(
    model: TinyDecoder,
    module: Lookahead,
    setup: Setup,
    tokens: int,
    *,
    share: float = 0.125,
    repeats: int = 40,
) -> dict[str, Cost]:
    """Every policy's cost at one length; policies take turns, so a busy machine slows all alike."""
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, 64, (1, tokens), generator=generator)
    setup = Setup(**{**setup.__dict__, "module": module})
    rules = {name: policy(name, setup) for name in POLICIES}
    spent: dict[str, list[float]] = {name: [] for name in rules}
    prefill: list[float] = []
    for turn in range(repeats + 1):
        start = time.thread_time()
        read_prompt(model, prompt)
        if turn > 0:
            prefill.append(time.thread_time() - start)
        whole = read_prompt(model, prompt, tokens)
        for name, rule in rules.items():
            fresh = Prompt(model, prompt, whole.logits, whole.cache.fork())
            start = time.thread_time()
            evict(fresh, rule, max(1, round(share * tokens)))
            if turn > 0:
                spent[name].append(time.thread_time() - start)
    base = min(prefill) * 1e3
    return {
        name: Cost(base, min(took) * 1e3, statistics.median(took) * 1e3)
        for name, took in spent.items()
    }
