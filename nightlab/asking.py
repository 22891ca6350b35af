"""Which language models a command may ask: from the settings, in one place."""

import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from nightlab.errors import MissingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightlab.agents.goal.asked import Asked
    from nightlab.agents.question import Endpoint
    from nightlab.evals.task import Task
    from nightlab.settings import Settings

DEFAULT_TASK = "byte_lm"
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
    embedder: "Endpoint | None" = None
    """Tells near-duplicates among written changes."""


def endpoints(settings: "Settings") -> "tuple[Endpoint, ...]":
    """The models that are configured; none without a name and a place."""
    if not settings.model or not (settings.openai_api_key or settings.openai_base_url):
        return ()
    names = dict.fromkeys(name.strip() for name in settings.model.split(",") if name.strip())
    return tuple(_endpoint(name, settings) for name in names)


def embedder(settings: "Settings") -> "Endpoint | None":
    """The embedding model that is configured, at the same place as the others."""
    return _endpoint(settings.embedder, settings) if settings.embedder else None


def _endpoint(name: str, settings: "Settings") -> "Endpoint":
    from nightlab.agents.question import Endpoint

    return Endpoint(
        name=name,
        base_url=settings.openai_base_url,
        key=settings.openai_api_key,
        api=settings.api,
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
    return Proposers(
        asked, found, f"proposals by {names} at {found[0].place}{beside}", embedder(settings)
    )


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
        try:
            found = read(sentence, task.metrics, task.metric, now)
        except UsageError as error:
            raise UsageError(f"{error}{elsewhere(sentence, task.name)}") from None
        return Asked(reading=found, plan=(), by="the grammar", notes=(), calls=())
    from nightlab.agents.author.connect import connect
    from nightlab.vocabulary import Budget

    models = connect(who.endpoints[:1], Budget(), home, threading.Event())
    parts = tuple(part.name for part in catalogue.parts())
    (model,) = models.values()
    return ask(model, sentence, task.metrics, task.metric, parts, now)


def task_for(sentence: str, asked: str | None) -> str:
    """The task that was asked for; without one, ``byte_lm``, or another that ships where only that
    one measures what the goal speaks of, said on stderr."""
    from nightlab.evals import task

    if asked is not None:
        return asked
    other = _measuring(sentence, [DEFAULT_TASK, *task.names()])
    if other not in (None, DEFAULT_TASK):
        print(f"task {other}: it measures what the goal speaks of", file=sys.stderr)
    return other or DEFAULT_TASK


def elsewhere(sentence: str, task_name: str) -> str:
    """What to do about a goal that the grammar cannot read on a task; empty where nothing."""
    from nightlab.evals import task

    other = _measuring(sentence, [name for name in task.names() if name != task_name])
    return f"; task {other} can serve it: add --task {other}" if other else ""


def _measuring(sentence: str, names: "Sequence[str]") -> str | None:
    """The first task on which the grammar reads a sentence."""
    from nightlab.agents.goal import read
    from nightlab.evals import task

    now = datetime.now().astimezone()
    for name in names:
        found = task.load(name)
        try:
            read(sentence, found.metrics, found.metric, now)
        except UsageError:
            continue
        return name
    return None


def cost(who: Proposers, home: Path) -> str:
    """What the models may cost, a line each; empty without models."""
    from nightlab.agents.author.write import MOST_TOKENS, REPAIRS
    from nightlab.agents.spending import price_of, prices

    table, lines = prices(home / "prices.toml"), []
    for at, endpoint in enumerate(who.endpoints):
        price = price_of(endpoint.name, table)
        known = f"{price.input:g} + {price.output:g} USD a million tokens" if price else ""
        lines.append(
            f"{'models' if at == 0 else '':12}{endpoint.name}: {known or 'price unknown'}; a reply "
            f"has at most {MOST_TOKENS:,} tokens, a proposal at most {1 + REPAIRS} replies"
        )
    return "\n".join(lines)


def confirm(asked: "Asked", *, yes: bool) -> None:
    """Have a person agree to a reading that is the model's alone, or that it doubts.

    Raises:
        UsageError: nobody agrees, or nobody is there to agree to what only a model could read.
    """
    if yes or not (asked.unsure or asked.doubted):
        return
    if not sys.stdin.isatty():
        if asked.unsure:
            raise UsageError(f"only {asked.by} could read the goal: look at it, then add --yes")
        return
    if not typer.confirm("Begin with this reading?", err=True):
        raise UsageError("not begun: say the goal differently")
