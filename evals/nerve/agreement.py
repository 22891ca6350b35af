"""Whether self-reported spectra agree with those recomputed on secret probe batches.

The trainer's records come from the program's own process and can be forged; the oracle's come
from several probe batches that the program has not seen. A disagreement beyond both the probes'
own scatter and a fair margin is a tell-tale: the measurement becomes suspect, never better.
"""

import math
from collections.abc import Sequence
from itertools import groupby

from nightlab.evals.nerve.readings import Reading

DEVIATIONS = 6.0
"""Standard deviations between probe batches that a report may lie from their mean."""
MARGIN = {"pr_corrected": (0.35, 0.5), "entropy": (0.10, 0.25), "eee": (0.0, 0.08)}
"""Further allowance, the larger of a share of the value and an absolute number: collapsed spectra
(PR near 1, entropy near 0) scatter more than their size. A training run's last batch is other text
than a probe batch."""

_At = tuple[int, int | None, str, str]


def disagreements(
    reported: Sequence[Reading], recomputed: Sequence[Sequence[Reading]]
) -> tuple[str, ...]:
    """Reasons to doubt a report, in words; empty where it agrees.

    ``reported`` is the trainer's last record, ``recomputed`` the oracle's, one sequence for each
    probe batch. A feed-forward that only one side saw, another width, or a number off by more than
    scatter and margin is a reason. Without recomputed spectra, that is the reason.
    """
    if not recomputed or not any(recomputed):
        return ("spectra could not be recomputed",) if reported else ()
    ours = {_at(r): r for r in reported}
    theirs: dict[_At, list[Reading]] = {}
    for batch in recomputed:
        for reading in batch:
            theirs.setdefault(_at(reading), []).append(reading)
    reasons = [f"{_name(at)}: reported, not found" for at in ours if at not in theirs]
    reasons += [f"{_name(at)}: found, not reported" for at in theirs if at not in ours]
    for at, reading in ours.items():
        if at in theirs:
            reasons += _differences(at, reading, theirs[at])
    return tuple(reasons)


def recomputed_by_step(batches: Sequence[Reading]) -> list[list[Reading]]:
    """One list for each probe batch, where the batch's number stands as the step."""
    ordered = sorted(batches, key=lambda r: r.step)
    return [list(group) for _, group in groupby(ordered, key=lambda r: r.step)]


def _differences(at: _At, reported: Reading, probes: Sequence[Reading]) -> list[str]:
    if reported.d and any(p.d and p.d != reported.d for p in probes):
        return [f"{_name(at)}: width {reported.d} reported, {probes[0].d} found"]
    sizes = {p.n for p in probes if p.n}
    if len(sizes) > 1:  # a router decides which tokens an expert sees
        return []
    if reported.n and sizes and reported.n not in sizes:
        return [f"{_name(at)}: {reported.n} tokens reported, {probes[0].n} probed: not comparable"]
    reasons = []
    for name, (share, least) in MARGIN.items():
        value = getattr(reported, name)
        found = [getattr(p, name) for p in probes if getattr(p, name) is not None]
        if value is None and not found:
            continue
        if value is None or not found:
            reasons.append(f"{_name(at)}: {name} on one side only")
            continue
        mean = sum(found) / len(found)
        allowed = max(share * abs(mean), least, DEVIATIONS * _deviation(found, mean))
        if not abs(value - mean) <= allowed:
            reasons.append(f"{_name(at)}: {name} {value:.4g} reported, {mean:.4g} found")
    return reasons


def _deviation(values: Sequence[float], mean: float) -> float:
    if len(values) < 2:
        return 0.0
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _at(reading: Reading) -> _At:
    return reading.layer, reading.expert, reading.path, reading.place


def _name(at: _At) -> str:
    layer, expert, _, place = at
    return f"layer {layer}" + (f" expert {expert}" if expert is not None else "") + f" {place}"


def last(readings: Sequence[Reading]) -> tuple[Reading, ...]:
    """The readings of the last step measured."""
    step = max((r.step for r in readings), default=0)
    return tuple(r for r in readings if r.step == step)
