"""Runs the cache kernels in Triton's interpreter against their twins; prints the worst differences.

Started as a program of its own by ``test_kv_triton.py``, because the interpreter must be chosen
before a kernel is defined, and would change every other test of the process.
"""

import json
import os
from itertools import product

os.environ["TRITON_INTERPRET"] = "1"

import torch

from nightlab.kernels.kv import (
    compact,
    compact_triton,
    score_triton,
    scores,
    select_triton,
    selection,
)


def score_difference() -> float:
    """Over head widths, query counts, groups and lengths no block divides; then over reductions."""
    worst = 0.0
    cases = [(64, 1, 1, 33, "mean", "mean"), (80, 8, 4, 21, "mean", "mean")]
    cases += [(128, 32, 8, 19, "mean", "mean"), (16, 70, 2, 17, "max", "mean")]
    cases += [(24, 5, 2, 18, a, b) for a, b in product(("mean", "max", "sum"), ("mean", "max"))]
    for d, n, group, T, reduce, over in cases:
        q, k, own = torch.randn(1, group, n, d), torch.randn(1, 1, T, d), torch.randn(1, 1, n, d)
        ours = score_triton.lookahead_scores(q, k, own, group=reduce, over=over)  # type: ignore[arg-type]
        twin = scores.lookahead_scores(q, k, own, group=reduce, over=over)  # type: ignore[arg-type]
        worst = max(worst, (ours - twin).abs().max().item())
    return worst


def split_difference() -> float:
    """With a row longer than one part of pass 1, and with no own keys beside one query."""
    q, k = torch.randn(1, 2, 1, 16), torch.randn(1, 1, score_triton.SPLIT + 33, 16)
    own = torch.randn(1, 1, 0, 16)
    ours, twin = score_triton.lookahead_scores(q, k, own), scores.lookahead_scores(q, k, own)
    return (ours - twin).abs().max().item()


def select_mismatches() -> int:
    """Kept positions that differ, with ties, signs, ragged lengths, forced rows and pools."""
    wrong = 0
    for T, pool, sinks, recent in [(130, 7, 4, 8), (1100, 3, 1, 0), (5, 3, 4, 8)]:
        s = torch.randn(2, 2, T).to(torch.bfloat16)
        s[0, 0] = 0.25
        s[1, 1, ::2] = -0.0
        lengths = torch.tensor([[0, T], [min(T, 17), T // 2]])
        ours = select_triton.select_rows(s, lengths, sinks=sinks, recent=recent, pool=pool)
        twin = selection.select_rows(s, lengths, sinks=sinks, recent=recent, pool=pool)
        wrong += int((ours.index != twin.index).sum())
    return wrong


def gather_mismatches() -> int:
    """Rows that differ from the twin's, for ragged lengths and a head width no block divides."""
    k, v = torch.randn(2, 2, 130, 80), torch.randn(2, 2, 130, 80)
    lengths = torch.tensor([[1, 70], [0, 130]])
    kept = selection.select_rows(torch.rand(2, 2, 130), lengths)
    ours = compact_triton.gather_rows(k, v, kept.index, kept.lengths)
    twin = compact.gather_rows(k, v, kept.index, kept.lengths)
    pairs = [(ours.k, twin.k), (ours.v, twin.v), (ours.pos, twin.pos)]
    return sum(int((a != b).sum()) for a, b in pairs if a is not None and b is not None)


def decode_difference() -> float:
    """Ragged heads and a tail that is a view of a longer buffer."""
    k, v = torch.randn(2, 2, 70, 24), torch.randn(2, 2, 70, 24)
    kept = selection.select_rows(torch.rand(2, 2, 70), torch.tensor([[3, 70], [66, 1]]))
    packed = compact.gather_rows(k, v, kept.index, kept.lengths)
    room = torch.randn(2, 2, 2, 90, 24)
    tail_k, tail_v = room[0][:, :, :67], room[1][:, :, :67]
    q = torch.randn(2, 8, 1, 24)
    ours = compact_triton.decode_attention(q, packed, tail_k, tail_v)
    return (ours - compact.compact_attention(q, packed, tail_k, tail_v)).abs().max().item()


if __name__ == "__main__":
    torch.manual_seed(0)
    found = {
        "scores": score_difference(),
        "split": split_difference(),
        "select": select_mismatches(),
        "gather": gather_mismatches(),
        "decode": decode_difference(),
    }
    print(json.dumps(found))
