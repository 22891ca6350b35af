"""Whether self-reported spectra agree with what an oracle recomputes.

The trainer's last report is of a trained model at rest, on examples that follow from the trial's
seed. The oracle is shown the same examples and the recorder samples the same tokens of them, so an
honest report agrees to rounding, whatever the number of tokens, and nothing need be allowed for the
scatter between texts. Both sides run the program's code: a program that forges both alike is not
caught. A disagreement is a tell-tale: the measurement becomes suspect, never better.
"""

from collections.abc import Sequence
from itertools import count

from nightlab.evals.nerve.readings import Reading

MARGIN = {"pr_corrected": (0.02, 0.02), "entropy": (0.01, 0.01), "eee": (0.0, 0.005)}
"""What is allowed, the larger of a share of the value and an absolute number: rounding, and
arithmetic in another order on another device."""

_At = tuple[int, int | None, str, str, int]
"""Layer, expert, path and place, and how many readings of the same four came before it."""


def disagreements(reported: Sequence[Reading], recomputed: Sequence[Reading]) -> tuple[str, ...]:
    """Reasons to doubt a report, in words; empty where it agrees.

    ``reported`` is the trainer's last record, ``recomputed`` the oracle's on the same examples. A
    feed-forward that only one side saw, another size, or a number off by more than the margin is a
    reason. Without recomputed spectra, that is the reason.
    """
    if not recomputed:
        return ("spectra could not be recomputed",) if reported else ()
    ours, theirs = _placed(reported), _placed(recomputed)
    reasons = [f"{_name(at)}: reported, not found" for at in ours if at not in theirs]
    reasons += [f"{_name(at)}: found, not reported" for at in theirs if at not in ours]
    for at, reading in ours.items():
        if at in theirs:
            reasons += _differences(at, reading, theirs[at])
    return tuple(reasons)


def _differences(at: _At, reported: Reading, found: Reading) -> list[str]:
    if reported.size != found.size:
        return [f"{_name(at)}: (N, D) = {reported.size} reported, {found.size} found"]
    reasons = []
    for name, (share, least) in MARGIN.items():
        ours, theirs = getattr(reported, name), getattr(found, name)
        if ours is None and theirs is None:
            continue
        if ours is None or theirs is None:
            reasons.append(f"{_name(at)}: {name} on one side only")
        elif not abs(ours - theirs) <= max(share * abs(theirs), least):
            reasons.append(f"{_name(at)}: {name} {ours:.4g} reported, {theirs:.4g} found")
    return reasons


def _placed(readings: Sequence[Reading]) -> dict[_At, Reading]:
    """Each reading at its place. Some experts share one, so none may stand in for another."""
    placed: dict[_At, Reading] = {}
    for reading in readings:
        at = reading.layer, reading.expert, reading.path, reading.place
        before = next(n for n in count() if (*at, n) not in placed)
        placed[*at, before] = reading
    return placed


def _name(at: _At) -> str:
    layer, expert, _, place, _ = at
    return f"layer {layer}" + (f" expert {expert}" if expert is not None else "") + f" {place}"


def last(readings: Sequence[Reading]) -> tuple[Reading, ...]:
    """The readings of the last step measured."""
    step = max((r.step for r in readings), default=0)
    return tuple(r for r in readings if r.step == step)
