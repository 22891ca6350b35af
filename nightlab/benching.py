"""``nightlab bench NAME``: every claim about speed or search, measured again on this machine."""

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nightlab.errors import UsageError
from nightlab.reading import AsJson, print_json, print_screen
from nightlab.running import TaskName, Tier, Workers

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(no_args_is_help=True)
kernels = typer.Typer(no_args_is_help=True)
app.add_typer(kernels, name="kernels", help="Kernels against the plain way, in one run.")

Out = Annotated[Path, typer.Option(help="Folder for the plot.")]


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


Real = Annotated[
    bool, typer.Option("--real", help="A real campaign of planted edits; takes minutes.")
]
Seed = Annotated[int, typer.Option(help="Of the campaign or the simulation.")]


@app.command()
def null(
    real: Real = False,
    campaigns: Annotated[int, typer.Option(min=200, help="Simulated ones.")] = 1000,
    edits: Annotated[int, typer.Option(min=1, help="Of the real campaign.")] = 20,
    task: TaskName = "byte_lm",
    sandbox: Tier = "auto",
    workers: Workers = 2,
    seed: Seed = 0,
    out: Out = Path(),
    as_json: AsJson = False,
) -> None:
    """Campaigns of edits that change nothing: how many are kept. Simulated, or a real one."""
    if real:
        from nightlab.agents.bench_planted import command
        from nightlab.settings import Settings

        home = Settings.load().folder
        made = command.real_null(
            edits=edits, task=task, tier=sandbox, home=home, folder=home / "bench" / "null",
            seed=seed, workers=workers, say=_say,
        )  # fmt: skip
        _planted({**made, "machine": machine(), "date": today()}, out / "null.png", as_json)
        return
    from nightlab.evals.bench_null import simulated_null
    from nightlab.evals.bench_null_plot import plot_null

    result = simulated_null(machine=machine(), date=today(), campaigns=campaigns, seed=seed)
    plot_null(result, out / "null.png")
    show(result, as_json)


@app.command()
def known(
    real: Real = False,
    campaigns: Annotated[int, typer.Option(min=200, help="Simulated ones.")] = 2000,
    task: TaskName = "byte_lm",
    sandbox: Tier = "auto",
    workers: Workers = 2,
    seed: Seed = 0,
    out: Out = Path(),
    as_json: AsJson = False,
) -> None:
    """Planted gains: how often they are found, and at what cost. Simulated, or in real trials."""
    if real:
        from nightlab.agents.bench_planted import command
        from nightlab.settings import Settings

        home = Settings.load().folder
        made = command.real_known(
            task=task, tier=sandbox, home=home, folder=home / "bench" / "known",
            seed=seed, workers=workers, say=_say,
        )  # fmt: skip
        _planted({**made, "machine": machine(), "date": today()}, out / "known.png", as_json)
        return
    from nightlab.evals.bench_null import simulated_known
    from nightlab.evals.bench_null_plot import plot_known

    result = simulated_known(machine=machine(), date=today(), campaigns=campaigns, seed=seed)
    plot_known(result, out / "known.png")
    show(result, as_json)


def _planted(document: Mapping[str, object], picture: Path, as_json: bool) -> None:
    from nightlab.agents.bench_planted.command import plot

    plot(document, picture)
    show(document, as_json)
    _say(f"plot  {picture}")


@app.command()
def search(
    tables: Annotated[Path, typer.Option(help="Folder with the benchmark tables.")],
    mode: Annotated[str, typer.Option(help="plain, noisy, two-fidelity or null.")] = "plain",
    on: Annotated[list[str] | None, typer.Option(help="Only these tables.")] = None,
    arms: Annotated[list[str] | None, typer.Option(help="Only these arms.")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 100,
    out: Out = Path(),
    as_json: AsJson = False,
) -> None:
    """The policy against random, local search, evolution, TPE and the rest at equal budget."""
    from nightlab.agents.bench_search.command import bench
    from nightlab.agents.bench_search.protocol import Settings
    from nightlab.agents.policy.stored import warm_path

    weights = (warm_path(),) if warm_path().is_file() else ()
    settings = Settings(
        tables=tables,
        names=tuple(on) if on else None,
        mode=mode,
        arms=tuple(arms or ()),
        seeds=seeds,
        weights=weights,
    )
    result = bench(settings, _say)
    result.plot(out / "search.png")
    if as_json:
        show(result.document, as_json)
    else:
        print(result.text())
        print(f"plot  {out / 'search.png'}")


@app.command()
def campaigns(
    arms: Annotated[str, typer.Option(help="With commas.")] = "random,tpe,puct,bandit,policy",
    pairs: Annotated[int, typer.Option(min=1, help="Campaigns of each arm.")] = 5,
    trials: Annotated[int, typer.Option(min=1, help="Budget of each campaign.")] = 60,
    rung: Annotated[str, typer.Option(help="The only rung.")] = "small",
    task: TaskName = "byte_lm",
    workers: Workers = 2,
    sandbox: Tier = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the first pair.")] = 1,
    out: Annotated[
        Path, typer.Option(help="Folder of the campaigns; give it again to go on.")
    ] = Path("bench-campaigns"),
    as_json: AsJson = False,
) -> None:
    """Real campaigns of every arm on the same seeds at equal trials; can be stopped and goes on."""
    from nightlab.agents.bench_campaigns import compare
    from nightlab.agents.bench_campaigns.arms import arms_of
    from nightlab.agents.bench_campaigns.run import Settings, run
    from nightlab.memory.database import plain
    from nightlab.memory.report.documents import jsonable
    from nightlab.sandbox.choose import choose
    from nightlab.settings import Settings as Home

    settings = Settings(
        arms=arms_of(arms.split(",")),
        pairs=pairs,
        trials=trials,
        rung=rung,
        task=task,
        workers=workers,
        first_seed=seed,
    )
    choice = choose(sandbox)
    try:
        rows = run(settings, out, Home.load().folder, choice.sandbox, _say)
    finally:
        choice.sandbox.close()
    result = {**compare.document(settings, rows), "machine": machine(), "date": today()}
    (out / "campaigns.json").write_text(json.dumps(plain(jsonable(result)), indent=2))
    compare.plot(rows, out / "campaigns.png")
    if as_json:
        show(result, as_json)
        return
    show({**result, "rows": result["table"]}, as_json)
    print(f"data  {out / 'campaigns.json'}\nplot  {out / 'campaigns.png'}")


@kernels.command("index_cache")
def index_cache(
    threads: Annotated[int, typer.Option(min=1)] = 2,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    mode: Annotated[
        list[str] | None, typer.Option(help='Only these, such as "block MHA forward".')
    ] = None,
    clock: Annotated[
        Literal["wall", "cpu"], typer.Option(help="CPU time for one thread on a busy machine.")
    ] = "wall",
    device: Literal["cpu", "cuda"] = "cpu",
    out: Out = Path(),
    as_json: AsJson = False,
) -> None:
    """Sparse attention with shared indices against dense attention, over context lengths."""
    from nightlab.evals.bench_kernels_index_cache import MODES, bench, plot, text

    try:
        report = bench(
            repeats=repeats, threads=threads, device=device, modes=tuple(mode or MODES),
            clock=clock, say=_say,
        )  # fmt: skip
    except ValueError as problem:
        raise UsageError(str(problem)) from None
    plot(report, out / "index_cache.png")
    if as_json:
        show(report, as_json)
    else:
        print(text(report))


@kernels.command("kv")
def kv(
    models: Annotated[
        Path | None, typer.Option(help="Folder that keeps the trained models.")
    ] = None,
    out: Out = Path(),
    as_json: AsJson = False,
) -> None:
    """Cache eviction: quality against stored bytes, and what evicting costs. Trains its models."""
    from nightlab.evals.bench_kernels_kv import plot, run

    report = run(folder=models, say=_say)
    plot(report, out / "kv.png")
    show(report, as_json)


@kernels.command("spectra")
def spectra(repeats: Annotated[int, typer.Option(min=3)] = 9, as_json: AsJson = False) -> None:
    """Spectral diagnostics against a plain implementation, and their share of training time."""
    from nightlab.evals.bench_kernels_spectra import run

    show(run(repeats=repeats, say=_say), as_json)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


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
