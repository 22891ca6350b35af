"""Two comparisons beside the statistics: at equal compute, and on text that decided nothing.

Both are made of what the host measured. A program that trains before the trainer's clock starts,
after it stops or in a child process, or that slows that clock, is seen from outside; one that knows
the search split by heart is seen where it does not.
"""

from collections.abc import Sequence
from statistics import fmean

from nightlab.agents.judge import Pair, Paired
from nightlab.memory.records import Estimate, Trial
from nightlab.vocabulary import Rung

SCREEN_SHARE, SCREEN_SECONDS = 0.05, 0.3
"""How much more than the incumbent a screening trial may use: share of the rung and CPU seconds.
Of 250 catalogue programs on a rung of 5 s, nine in ten stayed within 0.1 s of the baseline; those
that did not take steps of half a second."""
CONFIRM_SHARE, CONFIRM_SECONDS = 0.02, 0.05
"""The same for the mean of a confirmation: less than a gain that could be confirmed would need."""
LEAST_OF_GAIN = 0.5
"""The hold-out must leave room for this share of the gain that the search split promises."""


def overspent_screening(challenger: Trial, incumbent: Trial, rung: Rung) -> str | None:
    """Why a screening trial is no fair comparison, or None."""
    return _overspent([challenger], [incumbent], SCREEN_SHARE * rung.cpu_seconds + SCREEN_SECONDS)


def overspent_confirmation(pairs: Sequence[Pair], rung: Rung) -> str | None:
    """Why a confirmation's pairs are no fair comparison, or None."""
    more = CONFIRM_SHARE * rung.cpu_seconds + CONFIRM_SECONDS
    return _overspent([p.challenger for p in pairs], [p.incumbent for p in pairs], more)


def _overspent(
    challengers: Sequence[Trial], incumbents: Sequence[Trial], more: float
) -> str | None:
    mine = [t.run.cpu_seconds for t in challengers if t.run is not None]
    theirs = [t.run.cpu_seconds for t in incumbents if t.run is not None]
    if not mine or not theirs or fmean(mine) <= fmean(theirs) + more:
        return None
    return (
        f"used {fmean(mine):.2f} CPU seconds where the incumbent used {fmean(theirs):.2f}: "
        "no comparison at equal compute"
    )


def disagreement(estimate: Estimate, seen: Paired) -> str | None:
    """Why the hold-out does not bear out a gain, or None.

    It must show a gain at all, and its interval must reach half of what the search split's
    interval promises at the least: the same trained weights are read on other text, so a large
    gain on one and none on the other is knowledge of the one.
    """
    if seen.mean <= 0:
        return f"the hold-out disagrees: gain {seen.mean:.4g}"
    promised = LEAST_OF_GAIN * (estimate.gain_low or 0.0)
    if seen.high < promised:
        return (
            f"the hold-out disagrees: a gain of at most {seen.high:.4g} where the search split "
            f"promises {estimate.gain_low:.4g} or more"
        )
    return None
