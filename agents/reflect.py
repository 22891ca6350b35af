"""Reflect: a short lesson after an experiment, if there is one, in words backed by its rows."""

from collections.abc import Sequence

from nightlab.memory.records import Experiment
from nightlab.vocabulary import Verdict

DEAD_END_TRIES = 3


def lesson(experiment: Experiment, siblings: Sequence[Experiment], unit: str) -> str | None:
    """What an experiment taught; None where it only repeats what is known.

    ``siblings``: earlier experiments of the campaign with the same operator.
    """
    name = ", ".join(experiment.edits)
    if experiment.verdict is Verdict.CONFIRMED:
        e = experiment.estimate
        return (
            f"{name} helps: {e.gain:.4g} {unit} "
            f"[{e.gain_low:.4g}, {e.gain_high:.4g}] over {e.against} on {e.pairs} fresh pairs."
        )
    if experiment.verdict is Verdict.REJECTED:
        return f"{name} was caught: {experiment.reason}"
    if experiment.verdict in (Verdict.FAILED, Verdict.INVALID):
        return f"{name} does not run here: {experiment.reason}"
    tries = [s for s in siblings if s.verdict is Verdict.DISCARDED] + [experiment]
    if experiment.verdict is Verdict.DISCARDED and len(tries) == DEAD_END_TRIES:
        return (
            f"{experiment.operator} looks like a dead end: discarded in {len(tries)} experiments."
        )
    return None
