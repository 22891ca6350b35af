"""A plateau: a run of experiments without a confirmed gain, read from the ledger's verdicts.

It changes the plan: who proposes is told what was tried in vain and asked for another mechanism.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nightlab.agents import catalogue
from nightlab.agents.lab import Lab
from nightlab.memory.records import Experiment
from nightlab.vocabulary import Verdict

PATIENCE = 12
"""Measured experiments without a gain that make a plateau."""
KIND = "plateau"
MEASURED = (Verdict.DISCARDED, Verdict.SCREENED)


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """Since when nothing was gained, and where it was looked for."""

    since: str
    """Experiment of the last gain; the baseline where there was none."""
    length: int
    """Measured experiments since then."""
    tried: tuple[str, ...]
    """Parts that were changed, the most often changed first."""
    untouched: tuple[str, ...]
    """Parts that were not."""

    def __str__(self) -> str:
        return (
            f"no gain in {self.length} measured experiments since {self.since}; "
            f"tried: {', '.join(self.tried[:6]) or 'nothing'}; "
            f"not touched: {', '.join(self.untouched[:8]) or 'nothing'}"
        )


def plateau(experiments: Sequence[Experiment], parts: Sequence[str]) -> Plateau | None:
    """The plateau at the end of a campaign's experiments, if there is one."""
    gains = [e for e in experiments if e.verdict is Verdict.CONFIRMED]
    last = gains[-1] if gains else None
    after = [e for e in experiments if last is None or e.number > last.number]
    idle = [e for e in after if e.verdict in MEASURED]
    if last is None or len(idle) < PATIENCE:
        return None
    counts = Counter(e.part for e in idle if e.part)
    return Plateau(
        since=last.id,
        length=len(idle),
        tried=tuple(part for part, _ in counts.most_common()),
        untouched=tuple(part for part in parts if part not in counts),
    )


def standing(lab: Lab) -> Plateau | None:
    """The campaign's plateau; said once in the log when it begins."""
    parts = [part.name for part in catalogue.parts()]
    found = plateau(lab.ledger.experiments(lab.campaign.id), parts)
    if found is not None:
        said = [e.message for e in lab.ledger.events(lab.campaign.id) if e.kind == KIND]
        if not any(f"since {found.since};" in message for message in said):
            lab.log(KIND, f"{found}: proposers are told to change the plan")
    return found
