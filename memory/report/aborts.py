"""Trials ended early on their curve, and how often that was wrong."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from nightlab.errors import LedgerError, UsageError
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import CHECKUP, JSON, Campaign, Trial
from nightlab.memory.report import intervals
from nightlab.memory.report.intervals import Interval
from nightlab.vocabulary import Ending


@dataclass(frozen=True, kw_only=True)
class Aborts:
    """What a campaign's abort rule did. All are ids of trials."""

    aborted: tuple[str, ...]
    audited: tuple[str, ...]
    """Would have been ended early as well, and were drawn to run to their end."""
    wrong: tuple[str, ...]
    """Audited ones that did better than the program they were held against, by the trusted score
    on the same seed."""
    rate: Interval | None
    """Share of the audited that were wrong; None while none was audited."""


def aborts(ledger: Ledger, campaign: Campaign) -> Aborts:
    """Read what the abort rule did in a campaign."""
    judged = ledger.judged_hopeless(campaign.id)
    audited = [t for t in judged if t.run is not None and t.run.ending is not Ending.ABORTED]
    wrong = tuple(trial.id for trial in audited if _won(ledger, campaign, trial))
    return Aborts(
        aborted=tuple(t.id for t in judged if t not in audited),
        audited=tuple(trial.id for trial in audited),
        wrong=wrong,
        rate=intervals.share(len(wrong), [trial.id for trial in audited]),
    )


def document(found: Aborts) -> dict[str, JSON]:
    """As ``nightlab show CAMPAIGN --json`` prints it."""
    return {
        "aborted": len(found.aborted),
        "audited": len(found.audited),
        "wrong": len(found.wrong),
        "false_abort_rate": found.rate.value if found.rate else None,
        "false_abort_interval": found.rate.range if found.rate else None,
        "aborted_trials": list(found.aborted),
        "audited_trials": list(found.audited),
        "wrong_trials": list(found.wrong),
    }


def described(found: Aborts) -> str:
    """In words; empty where nothing was ended early."""
    if not found.aborted and not found.audited:
        return ""
    said = f"{len(found.aborted)} ended early on their curve, {len(found.audited)} more finished"
    said += " to audit that"
    if found.rate is None:
        return f"{said}: the share of wrong aborts is not known yet"
    low, high = (100 * end for end in found.rate.range or (0.0, 1.0))
    wrong = f"{100 * found.rate.value:.0f} % [{low:.0f}, {high:.0f}]"
    return f"{said}: {len(found.wrong)} of these would have been wrong ({wrong})"


def _won(ledger: Ledger, campaign: Campaign, trial: Trial) -> bool:
    metric, sign = campaign.objective.metric, campaign.objective.direction.sign
    mine = trial.value(metric)
    other = ledger.trial(_reference(ledger, trial)).value(metric)
    return mine is not None and other is not None and sign * (mine - other) > 0


def _reference(ledger: Ledger, trial: Trial) -> str:
    """The trial that it was held against, from the evidence beside it."""
    try:
        seen = json.loads(ledger.artifacts.get(trial.artifacts[CHECKUP].sha256))
        reference = seen["reference"] if isinstance(seen, Mapping) else None
    except (ValueError, KeyError, UsageError) as error:
        raise LedgerError(f"the audit of trial {trial.id} cannot be read: {error}") from None
    return str(reference)
