"""When spectra may help to stop a run: only together with a bad loss, and on record."""

from collections.abc import Sequence
from dataclasses import dataclass

from nightlab.evals.nerve.table import INERT_EEE, INERT_JS
from nightlab.evals.nerve.thirds import THIRDS, Summary

REPORTS = 3
"""Reports in a row for which a collapse must hold."""
COLLAPSED_SHARE = 0.01
"""PR_post/D below which a third counts as collapsed."""


@dataclass(frozen=True)
class Veto:
    """Whether to stop, and what was seen; kept whether or not the run was stopped."""

    stop: bool
    bad_loss: bool
    """Loss worse than the reference runs' quantile at the same step."""
    collapsed: bool
    """The collapse rule held for the last reports in a row."""
    reason: str


def collapse(now: Summary) -> str | None:
    """Which collapse rule a report meets, in words; None for none."""
    eee, js = now.values.get(("early", "eee_post")), now.values.get(("early", "js"))
    if eee is not None and js is not None and eee > INERT_EEE and js < INERT_JS:
        return "early layers inert"
    for where in THIRDS:
        share = now.values.get((where, "pr_post"))
        if share is not None and share < COLLAPSED_SHARE:
            return f"{where} layers collapsed"
    return None


def veto(
    loss: float,
    reference_losses: Sequence[float],
    reports: Sequence[Summary],
    *,
    quantile: float = 0.75,
    needed: int = REPORTS,
) -> Veto:
    """Stop only if the loss is worse than a quantile of reference losses at the same step, and
    one collapse rule held in each of the last ``needed`` reports.

    ``reference_losses`` are of runs at this step (lower is better); without any, nothing is bad.
    Spectra are self-reported unless recomputed: a forged collapse stops the forger's own run, and
    a forged health only removes the help. The caller records every veto, and finishes a share of
    the vetoed runs, so that false stops can be counted.
    """
    if not 0 < quantile < 1 or needed < 1:
        raise ValueError("quantile must be within (0, 1) and needed at least 1")
    ordered = sorted(reference_losses)
    bar = ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else None
    bad = bar is not None and not loss <= bar
    rules = [collapse(report) for report in reports[-needed:]]
    collapsed = len(rules) == needed and rules[0] is not None and len(set(rules)) == 1
    if bad and collapsed:
        reason = f"loss {loss:.4g} beyond {bar:.4g} and {rules[0]} for {needed} reports"
    elif collapsed:
        reason = f"{rules[0]}, but the loss is not bad"
    else:
        reason = "no lasting collapse"
    return Veto(bad and collapsed, bad, collapsed, reason)
