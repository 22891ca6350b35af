"""Which language models a command may ask: from the settings, in one place."""

import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from nightlab.errors import MissingError, UsageError

if TYPE_CHECKING:
    from nightlab.agents.goal.asked import Asked
    from nightlab.agents.question import Endpoint
    from nightlab.evals.task import Task
    from nightlab.settings import Settings

HOW = (
    "set NIGHTLAB_MODEL to a model's name (several with commas), and OPENAI_API_KEY or "
    "OPENAI_BASE_URL to where it is"
)


class Proposers(NamedTuple):
    """Who proposes in a campaign."""

    kind: str
    """``catalogue``, ``llm``, or ``auto`` for both."""
    endpoints: "tuple[Endpoint, ...]"
    why: str
    """A line for the person."""


def endpoints(settings: "Settings") -> "tuple[Endpoint, ...]":
    """The models that are configured; none without a name and a place."""
    from nightlab.agents.question import Endpoint

    if not settings.model or not (settings.openai_api_key or settings.openai_base_url):
        return ()
    names = dict.fromkeys(name.strip() for name in settings.model.split(",") if name.strip())
    return tuple(
        Endpoint(
            name=name,
            base_url=settings.openai_base_url,
            key=settings.openai_api_key,
            api=settings.api,
        )
        for name in names
    )


def proposers(asked: str, settings: "Settings") -> Proposers:
    """Who is to propose.

    Raises:
        UsageError: no such proposer.
        MissingError: models are asked for and none is configured.
    """
    if asked not in ("auto", "catalogue", "llm"):
        raise UsageError(f"unknown proposer {asked!r}: choose auto, catalogue or llm")
    if asked == "catalogue":
        return Proposers("catalogue", (), "proposals by the catalogue")
    found = endpoints(settings)
    if not found and asked == "llm":
        raise MissingError(f"no language model is configured: {HOW}")
    if not found:
        return Proposers(
            "catalogue", (), "proposals by the catalogue: no language model is configured"
        )
    names = ", ".join(endpoint.name for endpoint in found)
    beside = "" if asked == "llm" else " beside the catalogue"
    return Proposers(asked, found, f"proposals by {names} at {found[0].place}{beside}")


def understand(sentence: str, task: "Task", who: Proposers, home: Path) -> "Asked":
    """The goal as the grammar reads it, and with a model also its plan, or its reading.

    Raises:
        UsageError: nobody can read it, or it is ambiguous.
        MissingError: the model does not answer at all.
    """
    from nightlab.agents import catalogue
    from nightlab.agents.goal import read
    from nightlab.agents.goal.asked import Asked, ask

    now = datetime.now().astimezone()
    if not who.endpoints:
        found = read(sentence, task.metrics, task.metric, now)
        return Asked(reading=found, plan=(), by="the grammar", notes=(), calls=())
    from nightlab.agents.author.connect import connect
    from nightlab.vocabulary import Budget

    models = connect(who.endpoints[:1], Budget(), home, threading.Event())
    parts = tuple(part.name for part in catalogue.parts())
    (model,) = models.values()
    return ask(model, sentence, task.metrics, task.metric, parts, now)


def confirm(asked: "Asked", *, yes: bool) -> None:
    """Have a person agree to a reading that is the model's alone.

    Raises:
        UsageError: nobody agrees.
    """
    if not asked.unsure or yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"only {asked.by} could read the goal: look at it, then add --yes")
    if not typer.confirm("Begin with this reading?", err=True):
        raise UsageError("not begun: say the goal differently")
