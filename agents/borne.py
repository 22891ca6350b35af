"""A program's own counts beside the compute that the host saw it use.

FLOPs are counted by torch in the program's own process, and tokens by the trainer beside it: both
could be forged. What a count promises must show in CPU time, by as much as is said here.
"""

from collections.abc import Collection, Sequence
from statistics import fmean

from nightlab.evals.meters import CPU_METRIC
from nightlab.memory.records import Trial

FLOPS_SHARE, FLOPS_ROOM = 0.5, 1.25
"""CPU time of a forward pass that bears a count of FLOPs out: half of the share that the count says
is saved must be saved, and a quarter more is allowed for what is not counted and for noise."""
TOKENS_ROOM = 1.5
"""How much more a program may train than it reads, compared with the baseline: what a cheaper
backward pass, optimizer or larger batch can be worth."""


def unborne(metrics: Collection[str], mine: Sequence[Trial], theirs: Sequence[Trial]) -> str | None:
    """Why a program's own counts are not believed beside the compute that the host saw, or None.

    ``metrics``: those that the objective names; the counts that it does not name change nothing.
    Counted are FLOPs a token, of which fewer must show as CPU time saved, and tokens trained on,
    of which more must show as a cheaper token: each token that is trained on is one that was read.
    """
    seen = _ratio(CPU_METRIC, mine, theirs)
    if seen is None:
        return None
    flops = _ratio("flops_per_token", mine, theirs)
    if "flops_per_token" in metrics and flops is not None:
        allowed = FLOPS_ROOM * (1 - FLOPS_SHARE * max(0.0, 1 - flops))
        if seen > allowed:
            return (
                f"its count is not believed: {flops:.2f} x the baseline's FLOPs a token, but "
                f"{seen:.2f} x its CPU time, of which {allowed:.2f} x would bear that out"
            )
    tokens = _ratio("train_tokens_per_s", mine, theirs)
    if "train_tokens_per_s" in metrics and tokens is not None and tokens * seen > TOKENS_ROOM:
        return (
            f"its count is not believed: trained on {tokens:.2f} x the baseline's tokens a second, "
            f"but reading one takes {seen:.2f} x the CPU time"
        )
    return None


def _ratio(metric: str, mine: Sequence[Trial], theirs: Sequence[Trial]) -> float | None:
    """Mean of a metric over that of the others; None where either lacks it."""
    ours = [v for t in mine if (v := t.value(metric)) is not None]
    others = [v for t in theirs if (v := t.value(metric)) is not None]
    return fmean(ours) / fmean(others) if ours and others and fmean(others) > 0 else None
