"""The commands that read the ledger: list, show, diff, log, report."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from nightlab import explaining
from nightlab.errors import LedgerError, UsageError, boundary
from nightlab.vocabulary import Verdict

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from nightlab.memory.ledger import Ledger
    from nightlab.memory.records import JSON, Event
    from nightlab.settings import Settings

app = typer.Typer(no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
CampaignId = Annotated[str, typer.Argument(metavar="CAMPAIGN", help="Such as c1.")]
POLL_SECONDS = 0.5
WIDE = 120
"""Columns from which on a table shows everything."""


class Which(NamedTuple):
    """Which of a campaign's experiments to show, and in what order."""

    verdicts: list[Verdict]
    text: str
    sort: str
    limit: int
    offset: int


@app.command("list")
def list_campaigns(
    limit: Annotated[int, typer.Option(min=1, help="The newest so many campaigns.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the campaigns in the ledger, the newest last."""
    with reading() as (ledger, settings):
        from nightlab.memory.report import screens
        from nightlab.memory.report.summary import document, summarise

        newest = ledger.campaigns()[-limit:]
        found = [summarise(ledger, campaign.id, settings.reports) for campaign in newest]
        if as_json:
            print_json({"campaigns": [document(summary) for summary in found]})
        elif found:
            print_screen(screens.campaigns(found, wide=terminal().width >= WIDE))
        else:
            print('There is no campaign yet. Begin one: nightlab run "lower val_bpb in 10 minutes"')


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="A campaign, experiment or trial.")],
    verdict: Annotated[list[Verdict] | None, typer.Option(help="Only this verdict.")] = None,
    text: Annotated[str, typer.Option(help="Only experiments that mention this.")] = "",
    sort: Annotated[str, typer.Option(help="number, gain, verdict, author or part.")] = "number",
    limit: Annotated[int, typer.Option(min=1, help="Experiments on a page.")] = 25,
    page: Annotated[int, typer.Option(min=1, help="Which page of a campaign.")] = 1,
    files: Annotated[
        Path | None, typer.Option(help="Write the experiment's program to this folder.")
    ] = None,
    policy: Annotated[
        bool, typer.Option("--policy", help="Why it was decided, and what the policy learned.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a campaign (c1), an experiment (c1-7) or a trial (c1-7/small/1003)."""
    with reading() as (ledger, settings):
        if policy:
            from nightlab.memory.report.documents import jsonable

            shown = explaining.policy(ledger, settings.folder, name)
            if as_json:
                print_json(jsonable(shown.document))
            else:
                print_screen(shown.screen())
        elif "/" in name:
            _show_trial(ledger, name, as_json)
        elif "-" in name:
            _show_experiment(ledger, name, files, as_json)
        else:
            which = Which(verdict or [], text, sort, limit, (page - 1) * limit)
            _show_campaign(ledger, name, which, settings.reports, as_json)


@app.command()
def diff(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Such as c1-7.")],
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Against the baseline, not the parent.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what an experiment changed, against its parent or the baseline."""
    with reading() as (ledger, _):
        from nightlab.memory.report import screens
        from nightlab.memory.report.diff import diff as compare
        from nightlab.memory.report.diff import sizes

        new = ledger.experiment(experiment)
        against = f"{new.campaign}-0" if baseline else new.parent
        if against is None or new.program is None:
            what = "no parent" if against is None else "no program yet"
            raise UsageError(f"{experiment} has {what}: there is nothing to compare")
        old = ledger.experiment(against).program
        before = ledger.program(old or "").program
        patch = compare(before, ledger.program(new.program).program, against, experiment)
        added, removed = sizes(patch)
        if as_json:
            sides: dict[str, JSON] = {"experiment": experiment, "against": against}
            size: dict[str, JSON] = {"lines_added": added, "lines_removed": removed}
            edits: dict[str, JSON] = {"edits": list(_edits(ledger, experiment, baseline))}
            print_json({**sides, **edits, **size, "diff": patch})
        elif sys.stdout.isatty():
            print_screen(screens.patch(patch))
        else:
            print(patch, end="")


@app.command()
def log(
    campaign: CampaignId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for new lines while it runs.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many lines.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Show a campaign's log, the newest line last."""
    if follow and as_json:
        raise UsageError("--json prints one document: it cannot follow a log")
    with reading() as (ledger, _):
        from nightlab.memory.report.documents import jsonable

        lines = ledger.events(campaign, limit=limit)
        if as_json:
            print_json({"campaign": campaign, "events": jsonable(lines)})
            return
        _print_events(lines)
        while follow and ledger.holder(campaign) is not None:
            time.sleep(POLL_SECONDS)
            new = ledger.events(campaign, after=lines[-1].id if lines else 0)
            _print_events(new)
            lines = new or lines
        if follow:
            _print_events(ledger.events(campaign, after=lines[-1].id if lines else 0))


@app.command()
def report(
    campaign: CampaignId,
    to: Annotated[Path | None, typer.Option(help="Folder for it; reports/ by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a campaign's report (Markdown, JSON and a plot) and say where it is."""
    with reading() as (ledger, settings):
        from nightlab.memory.report.write import write_report

        sections = explaining.sections(ledger, settings.folder, campaign)
        written = write_report(ledger, campaign, to or settings.reports, sections)
        if as_json:
            print(written.json.read_text(encoding="utf-8"), end="")
        else:
            print(f"report  {written.markdown}\nplot    {written.plot}\ndata    {written.json}")


@contextmanager
def reading() -> Iterator[tuple["Ledger", "Settings"]]:
    """The ledger and the settings of this process; the ledger is closed at the end."""
    from nightlab.memory.ledger import Ledger
    from nightlab.settings import Settings

    settings = Settings.load()
    with Ledger.open(settings.ledger_url, settings.artifacts) as ledger:
        yield ledger, settings


def print_json(document: "JSON") -> None:
    """The one document of a ``--json`` command, on stdout."""
    from nightlab.memory.database import plain

    print(json.dumps(plain(document), indent=2, allow_nan=False))


def terminal() -> "Console":
    """Stdout, as wide as the terminal; wide where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def print_screen(screen: "RenderableType") -> None:
    """A table or panel on stdout."""
    terminal().print(screen)


def _print_events(lines: "list[Event]") -> None:
    from nightlab.memory.report import screens

    if lines:
        print_screen(screens.events(lines))


def _show_campaign(ledger: "Ledger", name: str, which: Which, reports: Path, as_json: bool) -> None:
    from nightlab.memory.records import Order
    from nightlab.memory.report import screens
    from nightlab.memory.report.documents import jsonable
    from nightlab.memory.report.summary import document, summarise

    if which.sort not in list(Order):
        raise UsageError(f"cannot sort by {which.sort!r}: choose {', '.join(Order)}")
    found = ledger.page(
        name,
        verdicts=which.verdicts,
        text=which.text,
        order=Order(which.sort),
        limit=which.limit,
        offset=which.offset,
    )
    summary = summarise(ledger, name, reports)
    if as_json:
        shown = {"matching": found.matching, "experiments": jsonable(found.experiments)}
        print_json({**document(summary), **shown})
    else:
        wide = terminal().width >= WIDE
        print_screen(screens.campaign(summary, found, offset=which.offset, wide=wide))


def _show_experiment(ledger: "Ledger", name: str, files: Path | None, as_json: bool) -> None:
    from nightlab.memory.report import screens
    from nightlab.memory.report.documents import experiment_document
    from nightlab.memory.report.spectra import told

    found = ledger.experiment(name)
    program = ledger.program(found.program).program.files if found.program else {}
    if files is not None:
        with boundary(LedgerError, f"writing {name} to {files}"):
            files.mkdir(parents=True, exist_ok=True)
            for file, content in program.items():
                (files / Path(file).name).write_text(content, encoding="utf-8")
    trials, decisions = ledger.trials(experiment=name), ledger.decisions(name)
    calls, seen = ledger.calls(found.campaign, experiment=name), told(ledger, name)
    if as_json:
        print_json(experiment_document(found, trials, decisions, program, calls, seen))
        return
    metric = ledger.campaign(found.campaign).objective.metric
    print_screen(screens.experiment(found, trials, decisions, metric, calls, seen))


def _show_trial(ledger: "Ledger", name: str, as_json: bool) -> None:
    from nightlab.memory.report import screens
    from nightlab.memory.report.documents import trial_document

    found = ledger.trial(name)
    if as_json:
        print_json(trial_document(found))
    else:
        print_screen(screens.trial(found))


def _edits(ledger: "Ledger", experiment: str, baseline: bool) -> Iterator[str]:
    """The experiment's own edits, or all since the baseline."""
    line = ledger.lineage(experiment)
    for step in line if baseline else line[-1:]:
        yield from step.edits
