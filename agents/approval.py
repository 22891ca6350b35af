"""Approval: what a model wrote waits until a person says yes or no."""

import threading

from langgraph.errors import GraphDrained

from nightlab.agents.lab import Lab
from nightlab.memory.ledger import Ledger
from nightlab.vocabulary import Program

APPROVE = "approve"
REJECT = "reject"
POLL_SECONDS = 0.5


def answer(ledger: Ledger, campaign: str, experiment: str, program: str, kind: str) -> None:
    """A person's word on one version of a program."""
    ledger.add_directive(campaign, f"{experiment} {program}", kind=kind)


def wait(lab: Lab, experiment: str, program: Program, stopping: threading.Event) -> str | None:
    """Until a person answers: None for yes, otherwise why it is refused.

    Raises:
        GraphDrained: the campaign is stopping; a resume waits again.
    """
    key, told = f"{experiment} {program.id}", False
    while True:
        for directive in lab.ledger.directives(lab.campaign.id):
            if directive.kind in (APPROVE, REJECT) and directive.text == key:
                lab.ledger.mark_seen(directive.id)
                return None if directive.kind == APPROVE else "rejected by a person"
        if not told:
            lab.log("approval", f"{experiment} waits: nightlab approve {experiment}", experiment)
            told = True
        if lab.seconds_left() <= 0:
            return "nobody approved it in time"
        if stopping.wait(POLL_SECONDS):
            raise GraphDrained("stopped while waiting for approval")
