"""The commands by which a person has a word in a campaign: approve, reject, annotate."""

import sys
from typing import Annotated

import typer

from nightlab.errors import UsageError
from nightlab.reading import reading

app = typer.Typer()

ExperimentId = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Such as c1-7.")]


@app.command()
def approve(experiment: ExperimentId) -> None:
    """Let a program that a model wrote be run, in a campaign begun with --approve."""
    _answer(experiment, "approve")


@app.command()
def reject(experiment: ExperimentId) -> None:
    """Refuse a program that a model wrote, in a campaign begun with --approve."""
    _answer(experiment, "reject")


@app.command()
def annotate(
    experiment: ExperimentId, note: Annotated[str, typer.Argument(help="What to remember.")]
) -> None:
    """Keep a note on an experiment; proposers and reports see it beside the lessons."""
    if not note.strip():
        raise UsageError("an empty note says nothing")
    with reading() as (ledger, _):
        found = ledger.experiment(experiment)
        lesson = ledger.add_lesson(found.campaign, f"A person notes: {note.strip()}", [experiment])
        ledger.log(found.campaign, "note", note.strip(), experiment=experiment)
        print(f"lesson {lesson.id} is kept for {experiment}", file=sys.stderr)


def _answer(experiment: str, kind: str) -> None:
    from nightlab.agents.approval import answer

    with reading() as (ledger, _):
        found = ledger.experiment(experiment)
        if found.program is None or found.verdict is not None:
            state = found.verdict or "not written yet"
            raise UsageError(f"{experiment} waits for nobody: it is {state}")
        if not ledger.campaign(found.campaign).settings.get("approval"):
            raise UsageError(f"campaign {found.campaign} was not begun with --approve")
        answer(ledger, found.campaign, experiment, found.program, kind)
        print(f"{kind} {experiment}: noted", file=sys.stderr)
