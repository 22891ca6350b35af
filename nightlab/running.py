"""The commands that run campaigns: run, overnight, resume, goal, stop, steer."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from nightlab import asking, explaining
from nightlab.errors import UsageError
from nightlab.reading import AsJson, CampaignId, print_json, print_screen, reading
from nightlab.vocabulary import Beginning

if TYPE_CHECKING:
    from nightlab.agents.campaign import Supervisor
    from nightlab.agents.goal.asked import Asked
    from nightlab.memory.ledger import Ledger
    from nightlab.sandbox.protocol import Sandbox
    from nightlab.settings import Settings

app = typer.Typer()

DEFAULT_MINUTES = 10.0
STATUS_FAILED = 1

Goal = Annotated[str, typer.Argument(metavar="GOAL", help="What to improve, in a sentence.")]
TaskName = Annotated[str, typer.Option("--task", help="A shipped task, or a task's folder.")]
Data = Annotated[
    str | None, typer.Option("--data", help="A corpus of `nightlab data list`, not the task's own.")
]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Trials side by side.")]
Tier = Annotated[str, typer.Option("--sandbox", help="auto, docker+runsc, docker, bwrap, process.")]
Proposer = Annotated[str, typer.Option(help="auto, catalogue, or llm.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Decides every seed of the campaign.")]
Unsafe = Annotated[
    bool, typer.Option("--unsafe", help="Let model-written code run in the process tier.")
]
Learned = Annotated[Beginning, typer.Option("--policy", help="What the policy knows at its start.")]
Remember = Annotated[
    bool,
    typer.Option(help="Begin with what earlier campaigns on the task measured about each edit."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Begin with a reading that a model made alone.")]
Approve = Annotated[
    bool, typer.Option("--approve", help="Hold model-written code until `nightlab approve`.")
]
Headless = Annotated[bool, typer.Option("--headless", help="Plain progress lines, no live view.")]


@app.command()
def run(
    goal: Goal,
    task: TaskName = "byte_lm",
    data: Data = None,
    trials: Annotated[int | None, typer.Option(help="Stop after so many trials.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes.")] = None,
    workers: Workers = 2,
    proposer: Proposer = "auto",
    sandbox: Tier = "auto",
    seed: Seed = None,
    unsafe: Unsafe = False,
    policy: Learned = Beginning.BANDIT,
    memory: Remember = True,
    approve: Approve = False,
    yes: Yes = False,
    headless: Headless = False,
    as_json: AsJson = False,
) -> None:
    """Run a campaign to its end and write its report."""
    from nightlab.agents.start import Order, begin
    from nightlab.sandbox.choose import require

    require(sandbox)  # before a model is asked, which may cost money
    who = _proposers(proposer)
    asked = _read(goal, task, trials, minutes, who)
    _say(asked, task, workers, who)
    asking.confirm(asked, yes=yes)
    read = asked.reading
    order = Order(
        goal=goal,
        objective=read.objective,
        task=task,
        data=data,
        workers=workers,
        proposer=who.kind,
        endpoints=who.endpoints,
        embedder=who.embedder,
        approval=approve,
        research_plan="; ".join(asked.plan),
        calls=asked.calls,
        seed=seed,
        unsafe=unsafe,
        policy=policy,
        memory=memory,
    )
    with _lab(sandbox) as (ledger, settings, cells):
        supervisor = begin(order, ledger, cells, settings.folder)
        _supervise(supervisor, settings, headless=headless, as_json=as_json)


def begun(
    goal: str,
    *,
    task: str,
    data: str | None = None,
    until: datetime,
    workers: int,
    proposer: str,
    sandbox: str,
    seed: int | None,
    unsafe: bool,
    usd: float | None,
    gpu_seconds: float | None,
    approve: bool = False,
    yes: bool = False,
) -> str:
    """Store a new campaign that nobody supervises yet, and return its id."""
    from dataclasses import replace

    from nightlab.agents.start import Order, begin
    from nightlab.sandbox.choose import require

    require(sandbox)  # before a model is asked, which may cost money
    seconds = (until - datetime.now().astimezone()).total_seconds()
    who = _proposers(proposer)
    asked = _read(goal, task, None, seconds / 60, who)
    _say(asked, task, workers, who)
    asking.confirm(asked, yes=yes)
    read = asked.reading
    budget = replace(read.objective.budget, usd=usd, gpu_seconds=gpu_seconds)
    order = Order(
        goal=goal,
        objective=replace(read.objective, budget=budget),
        task=task,
        data=data,
        workers=workers,
        proposer=who.kind,
        endpoints=who.endpoints,
        embedder=who.embedder,
        approval=approve,
        research_plan="; ".join(asked.plan),
        calls=asked.calls,
        seed=seed,
        unsafe=unsafe,
        until=until,
    )
    with _lab(sandbox) as (ledger, settings, cells):
        supervisor = begin(order, ledger, cells, settings.folder)
        supervisor.lab.bench.drain()
        ledger.release_lease(supervisor.lab.lease)
        return supervisor.lab.campaign.id


@app.command()
def resume(campaign: CampaignId, headless: Headless = False, as_json: AsJson = False) -> None:
    """Go on with a campaign that was stopped, or whose supervisor died."""
    from nightlab.agents import start

    with reading() as (ledger, _):
        tier = ledger.campaign(campaign).tier
    with _lab(tier) as (ledger, settings, cells):
        extra = asking.embedder(settings)
        known = (*asking.endpoints(settings), *([extra] if extra else []))
        supervisor = start.resume(campaign, ledger, cells, settings.folder, known)
        _supervise(supervisor, settings, headless=headless, as_json=as_json)


@app.command()
def goal(
    goal: Goal,
    task: Annotated[
        str | None, typer.Option("--task", help="byte_lm, or a task that measures it.")
    ] = None,
    workers: Workers = 2,
    proposer: Proposer = "auto",
    as_json: AsJson = False,
) -> None:
    """Show how a goal is understood and what it would cost; runs nothing."""
    from nightlab.agents import plan
    from nightlab.agents.goal import asked as asked_goal
    from nightlab.agents.goal import describe, document
    from nightlab.evals.task import load
    from nightlab.memory.report.documents import jsonable
    from nightlab.settings import Settings

    name, who = asking.task_for(goal, task), _proposers(proposer)
    asked = _read(goal, name, None, None, who)
    read = asked.reading
    loaded, wanted = load(name), read.objective
    made = plan.make(loaded, wanted, workers)
    caveats = plan.caveats(loaded, wanted, made)
    if as_json:
        notes = [*asked.notes, *caveats]
        said = {"read_by": asked.by, "research_plan": asked.plan, "notes": notes}
        print_json(jsonable({**document(read), **said, "plan": plan.document(made)}))
    else:
        print(describe(read))
        print(asked_goal.describe(asked))
        print(plan.describe(made), *(f"note        {row}" for row in caveats), sep="\n")
        if who.endpoints:
            print(asking.cost(who, Settings.load().folder))


@app.command()
def stop(campaign: CampaignId) -> None:
    """Ask a running campaign to drain, report and stop."""
    with reading() as (ledger, _):
        if ledger.holder(campaign) is None:
            raise UsageError(f"campaign {campaign} is not running")
        ledger.add_directive(campaign, "stop", kind="stop")
        print(f"campaign {campaign} will stop after its running trials", file=sys.stderr)


@app.command()
def steer(
    campaign: CampaignId, note: Annotated[str, typer.Argument(help="What to do differently.")]
) -> None:
    """Leave a directive for a campaign; the next decision takes it up."""
    with reading() as (ledger, _):
        if not note.strip():
            raise UsageError("an empty directive steers nowhere")
        directive = ledger.add_directive(campaign, note)
        print(f"directive {directive.id} is queued for campaign {campaign}", file=sys.stderr)


def _read(
    sentence: str, task: str, trials: int | None, minutes: float | None, who: asking.Proposers
) -> "Asked":
    """The sentence as understood, with the budget the options or the default give it."""
    from dataclasses import replace

    from nightlab.evals.task import load
    from nightlab.settings import Settings

    for name, value in (("--trials", trials), ("--minutes", minutes)):
        if value is not None and value <= 0:
            raise UsageError(f"{name} {value:g} leaves nothing to spend: give a positive number")
    loaded = load(task)
    if loaded.note:
        print(loaded.note, file=sys.stderr)
    asked = asking.understand(sentence, loaded, who, Settings.load().folder)
    found = asked.reading
    budget = found.objective.budget
    if trials is not None:
        budget = replace(budget, trials=trials)
    if minutes is not None:
        budget = replace(budget, seconds=60 * minutes)
    if budget.trials is None and budget.seconds is None:
        budget = replace(budget, seconds=60 * DEFAULT_MINUTES)
    found = replace(found, objective=replace(found.objective, budget=budget))
    return replace(asked, reading=found)


def _proposers(asked: str) -> asking.Proposers:
    """Who proposes, said on stderr."""
    from nightlab.settings import Settings

    who = asking.proposers(asked, Settings.load())
    print(who.why, file=sys.stderr)
    return who


@contextmanager
def _lab(tier: str) -> Iterator[tuple["Ledger", "Settings", "Sandbox"]]:
    """The ledger and a ready sandbox; both are closed at the end."""
    from nightlab.sandbox.choose import choose

    with reading() as (ledger, settings):
        choice = choose(tier)
        for line in choice.why:
            print(line, file=sys.stderr)
        try:
            yield ledger, settings, choice.sandbox
        finally:
            choice.sandbox.close()


def _say(asked: "Asked", task: str, workers: int, who: asking.Proposers) -> None:
    """How the goal is understood and what it will cost, on stderr, before anything is asked."""
    from nightlab.agents import plan
    from nightlab.agents.goal import asked as asked_goal
    from nightlab.agents.goal import describe
    from nightlab.evals.task import load
    from nightlab.settings import Settings

    loaded, wanted = load(task), asked.reading.objective
    made = plan.make(loaded, wanted, workers)
    lines = [describe(asked.reading), asked_goal.describe(asked), plan.describe(made)]
    lines += [f"note        {row}" for row in plan.caveats(loaded, wanted, made)]
    models = asking.cost(who, Settings.load().folder)
    print(*lines, *([models] if models else []), sep="\n", file=sys.stderr)


def _supervise(
    supervisor: "Supervisor", settings: "Settings", *, headless: bool, as_json: bool
) -> None:
    """Run to the end under a live view, then report on stdout."""
    from nightlab import live
    from nightlab.memory.records import CampaignStatus
    from nightlab.memory.report import screens
    from nightlab.memory.report.summary import document, summarise
    from nightlab.memory.report.write import write_report
    from nightlab.watching import snapshot

    lab = supervisor.lab
    try:
        with live.watch(lambda: snapshot(lab), headless=headless):
            status = supervisor.run()
    finally:
        lab.ledger.release_lease(lab.lease)
    sections = explaining.sections(lab.ledger, settings.folder, lab.campaign.id)
    write_report(lab.ledger, lab.campaign.id, settings.reports, sections)
    summary = summarise(lab.ledger, lab.campaign.id, settings.reports)
    if as_json:
        print_json(document(summary))
    else:
        print_screen(screens.campaign(summary, lab.ledger.page(lab.campaign.id, limit=10)))
        print(f"report  {summary.report}")
    if status is CampaignStatus.FAILED:
        raise typer.Exit(STATUS_FAILED)
