"""``nightlab task list | new | check``: the tasks that a campaign can run on."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightlab.errors import UsageError
from nightlab.reading import AsJson, print_json, terminal

if TYPE_CHECKING:
    from nightlab.agents.task_check import Examination, Finding

app = typer.Typer(no_args_is_help=True)

TaskFolder = Annotated[str, typer.Argument(metavar="TASK", help="A task's folder, or its name.")]
STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


@app.command("list")
def list_tasks(as_json: AsJson = False) -> None:
    """List the tasks that ship, and those in this folder."""
    from nightlab.evals import task
    from nightlab.memory.report.documents import jsonable

    own = [f"./{file.parent}" for file in sorted(Path().glob("*/task.toml"))]
    rows, broken = [], []
    for name in (*task.names(), *own):
        try:
            rows.append((name, task.load(name)))
        except UsageError as error:
            broken.append({"task": name, "problem": str(error)})
    if as_json:
        good = [
            {"task": name, "title": t.title, "metrics": dict(t.metrics), "rungs": t.rungs}
            for name, t in rows
        ]
        print_json(jsonable({"tasks": good, "unusable": broken}))
        return
    for name, t in rows:
        rungs = ", ".join(f"{rung.name} {rung.cpu_seconds:g} s" for rung in t.rungs)
        print(f"{name:12} {t.title}; {t.metric} {t.direction} is better; rungs: {rungs}")
    for each in broken:
        print(f"{each['task']:12} unusable: {each['problem']}", file=sys.stderr)


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the task is to be called.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where its folder is made.")] = Path(),
) -> None:
    """Make a folder with a task that runs as it is, to be changed into your own."""
    from nightlab.evals.new_task import create

    made = create(name, folder)
    shown = made if made.is_absolute() else f"./{made}"
    print(shown)
    print(f"try it:  nightlab task check {shown}", file=sys.stderr)
    print(
        f'use it:  nightlab run "lower val_loss in 3 minutes" --task {shown}\n'
        "change it: docs/your-task.md",
        file=sys.stderr,
    )


@app.command()
def check(
    task: TaskFolder,
    sandbox: Annotated[str, typer.Option(help="auto, docker+runsc, docker, bwrap, process.")] = (
        "auto"
    ),
    trials: Annotated[int, typer.Option(min=3, help="Baselines for the noise floor.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Run a task's baseline for real and report what is wrong; exit code 1 on a problem."""
    from nightlab.agents.task_check import Examination, State
    from nightlab.evals.task import load
    from nightlab.sandbox.choose import choose
    from nightlab.settings import Settings

    loaded = load(task)
    choice = choose(sandbox)
    for line in choice.why:
        print(line, file=sys.stderr)
    examination = Examination(loaded, choice.sandbox, Settings.load().folder, trials)
    found = []
    try:
        for finding in examination.findings():
            found.append(finding)
            print(f"{finding.check}: {finding.state}", file=sys.stderr, flush=True)
    finally:
        choice.sandbox.close()
    if as_json:
        from nightlab.memory.report.documents import jsonable

        print_json(jsonable(_document(examination, found)))
    else:
        _show(found)
    if any(finding.state is State.PROBLEM for finding in found):
        raise typer.Exit(1)


def _document(examination: "Examination", found: "list[Finding]") -> dict[str, object]:
    floor = examination.floor
    noise = None
    if floor is not None:
        noise = {**asdict(floor), "sd_interval": floor.sd_interval()}
    rows = [{**asdict(finding), "state": str(finding.state)} for finding in found]
    return {
        "task": examination.task.name,
        "tier": str(examination.sandbox.tier),
        "ok": all(finding.state != "problem" for finding in found),
        "findings": rows,
        "noise": noise,
    }


def _show(found: "list[Finding]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("check", "state", "found and what to do"):
        table.add_column(title, overflow="fold", no_wrap=title == "state")
    for finding in found:
        text = Text(finding.found)
        if finding.remedy:
            text.append(f"\n-> {finding.remedy}", "italic")
        table.add_row(Text(finding.check), Text(finding.state, STYLES[finding.state]), text)
    terminal().print(table)
    problems = sum(finding.state == "problem" for finding in found)
    print("the task is ready" if not problems else f"problems: {problems}")
