"""Approval: what a model wrote waits until a person says yes or no."""

import threading
from enum import StrEnum

from nightlab.agents.lab import Lab
from nightlab.memory.ledger import Ledger
from nightlab.vocabulary import Program

APPROVE = "approve"
REJECT = "reject"
POLL_SECONDS = 0.5


class Word(StrEnum):
    """What came of waiting for a person."""

    YES = "approved by a person"
    NO = "rejected by a person"
    NONE = "nobody approved it in time"
    STOPPED = "stopped while it waited"
    """The campaign is stopping; a resume waits again."""


def answer(ledger: Ledger, campaign: str, experiment: str, program: str, kind: str) -> None:
    """A person's word on one version of a program."""
    ledger.add_directive(campaign, f"{experiment} {program}", kind=kind)


def wait(lab: Lab, experiment: str, program: Program, stopping: threading.Event) -> Word:
    """Until a person answers, the campaign's time is over, or it is stopped."""
    key, told = f"{experiment} {program.id}", False
    while True:
        for directive in lab.ledger.directives(lab.campaign.id):
            if directive.kind in (APPROVE, REJECT) and directive.text == key:
                lab.ledger.mark_seen(directive.id)
                return Word.YES if directive.kind == APPROVE else Word.NO
        if not told:
            lab.log("approval", f"{experiment} waits: nightlab approve {experiment}", experiment)
            told = True
        if lab.seconds_left() <= 0:
            return Word.NONE
        if stopping.wait(POLL_SECONDS):
            return Word.STOPPED
