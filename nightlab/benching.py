"""``nightlab bench NAME``: every claim about speed or search, measured again on this machine."""

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from nightlab.reading import AsJson, print_json, print_screen
from nightlab.running import Tier

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(no_args_is_help=True)


@app.command()
def loop(
    sandbox: Tier = "auto",
    experiments: Annotated[int, typer.Option(min=2)] = 8,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also measure two workers against one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What a trial costs beside training and scoring; cold beside warm."""
    from nightlab.agents.bench_loop import run
    from nightlab.settings import Settings

    result = run(sandbox, experiments, Settings.load().folder, scaling=scaling)
    show({**result, "machine": machine(), "date": today()}, as_json)


def machine() -> str:
    """This machine in words, for a benchmark's record."""
    import psutil

    memory = psutil.virtual_memory().total >> 30
    cores = psutil.cpu_count()
    return f"{cores} cores, {memory} GiB, {platform.machine()}, Python {platform.python_version()}"


def today() -> str:
    """The date in UTC."""
    return datetime.now(UTC).date().isoformat()


def show(result: Mapping[str, object], as_json: bool) -> None:
    """A benchmark's document on stdout, or its rows and claims as tables."""
    from nightlab.memory.report.documents import jsonable

    if as_json:
        print_json(jsonable(dict(result)))
        return
    rows, claims = result["rows"], result["claims"]
    assert isinstance(rows, Sequence)
    assert isinstance(claims, Sequence)
    print_screen(_table(rows))
    print_screen(_table(claims))
    print(f"{result['machine']}, {result['date']}")


def _table(rows: Sequence[Mapping[str, object]]) -> "Table":
    from rich.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(box=None)
    for name in names:
        table.add_column(name)
    for row in rows:
        table.add_row(*(_cell(row.get(name, "")) for name in names))
    return table


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_cell(part)}" for name, part in value.items())
    return str(value)
