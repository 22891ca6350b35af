"""``nightlab doctor``: what this machine has, what it lacks, and how to get it.

It only looks: it changes no ledger, imports no torch, and prints no key.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from nightlab.errors import MissingError, NightlabError
from nightlab.settings import Settings

if TYPE_CHECKING:
    from nightlab.sandbox.choose import Readiness

app = typer.Typer()

ESSENTIAL_MISSING = MissingError.exit_code
PYTHON = (3, 11)
MEGABYTE, GIGABYTE = 1 << 20, 1 << 30
LEAST_DISK, EASY_DISK = 200 * MEGABYTE, 5 * GIGABYTE
LEAST_MEMORY, EASY_MEMORY = GIGABYTE, 4 * GIGABYTE
TRACING = ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2")
"""Each turns on sending every step of the graph to a server."""
RAY_STATISTICS = "RAY_USAGE_STATS_ENABLED"
NAMED = ("torch", "triton", "langgraph", "openai", "sqlmodel")
"""Packages whose versions are shown by name."""
DEFAULT_TASK = "byte_lm"


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    """Something optional is not there, or will be short."""
    MISSING = "missing"
    """Campaigns cannot run without it."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    remedy: str = ""
    """What to do, where there is something to do."""


@app.command()
def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Check what this machine has, and how to get what it lacks; exit code 3 if that is vital."""
    checks = list(examine(os.environ))
    if as_json:
        import json

        print(json.dumps(document(checks), indent=2))
    else:
        show(checks)
    if any(check.state is State.MISSING for check in checks):
        raise typer.Exit(ESSENTIAL_MISSING)


def document(checks: list[Check]) -> dict[str, object]:
    """The checks and the versions of what is installed, of JSON's own types."""
    return {
        "ok": all(check.state is not State.MISSING for check in checks),
        "checks": [
            {"name": c.name, "state": c.state.value, "found": c.found, "remedy": c.remedy}
            for c in checks
        ],
        "versions": {"python": platform.python_version(), **versions()},
    }


def examine(environ: Mapping[str, str]) -> Iterator[Check]:
    """Every check in turn; one that breaks is a warning, not the end."""
    yield from _guarded("python", python)
    yield from _guarded("packages", packages)
    settings, checks = _settings()
    yield from checks
    if settings is not None:
        yield from _guarded("disk", lambda: disk(shutil.disk_usage(settings.folder).free))
        yield from _guarded("ledger", lambda: ledger(settings))
        yield from _guarded("language model", lambda: language_model(settings))
    yield from _guarded("docker engine", docker_engine)
    yield from _guarded("sandbox", lambda: sandboxes(survey()))
    yield from _guarded("cpu", lambda: cpu(environ))
    yield from _guarded("memory", memory)
    yield from _guarded("gpu", gpu)
    yield from _guarded("triton", triton)
    yield from _guarded("corpus", corpus)
    yield from _guarded("telemetry", lambda: telemetry(environ))


def _guarded(name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from check()
    except Exception as fault:  # the rest is worth knowing all the same
        said = f"could not be looked at: {type(fault).__name__}: {fault}"
        yield Check(name, State.WARNING, said[:300])


def python() -> Iterator[Check]:
    """The interpreter's version."""
    state = State.OK if sys.version_info >= PYTHON else State.MISSING
    least = ".".join(map(str, PYTHON))
    remedy = "" if state is State.OK else f"install Python {least} or newer and run `make setup`"
    yield Check("python", state, f"{platform.python_version()} at {sys.executable}", remedy)


def packages() -> Iterator[Check]:
    """What the package needs, against what is installed."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in metadata.requires("nightlab") or []]
    wanted = [w for w in wanted if w.marker is None or w.marker.evaluate({"extra": ""})]
    installed = versions()
    bad = 0
    for need in wanted:
        version = installed.get(need.name)
        if version is None or not need.specifier.contains(version, prereleases=True):
            bad += 1
            found = "not installed" if version is None else f"{version}, not {need.specifier}"
            yield Check(f"package {need.name}", State.MISSING, found, "run `make setup`")
    named = ", ".join(f"{name} {installed[name]}" for name in NAMED if name in installed)
    fit = f"{len(wanted) - bad} of {len(wanted)} fit; {named}"
    yield Check("packages", State.WARNING if bad else State.OK, fit)


def versions() -> dict[str, str]:
    """Versions of the installed packages that nightlab asks for, extras included."""
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    for text in metadata.requires("nightlab") or []:
        name = Requirement(text).name
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _settings() -> tuple[Settings | None, list[Check]]:
    try:
        settings = Settings.load()
    except NightlabError as error:
        remedy = "set NIGHTLAB_HOME to a folder that you own, or unset the variable that is named"
        return None, [Check("home", State.MISSING, str(error), remedy)]
    return settings, [Check("home", State.OK, f"{settings.folder} is writable")]


def disk(free: int) -> Iterator[Check]:
    """Free bytes where the state lives."""
    state = State.MISSING if free < LEAST_DISK else State.WARNING if free < EASY_DISK else State.OK
    remedy = "" if state is State.OK else "free some space, or move NIGHTLAB_HOME to another disk"
    yield Check("disk", state, f"{free / GIGABYTE:.1f} GB free for NIGHTLAB_HOME", remedy)


def ledger(settings: Settings) -> Iterator[Check]:
    """Whether the ledger opens, and which schema it has; nothing is created or upgraded."""
    from nightlab.memory.database import Database
    from nightlab.memory.schema import revision, revisions

    with closing(Database(settings.ledger_url, busy_seconds=5.0)) as database:
        if database.path is not None and not database.path.exists():
            yield Check("ledger", State.OK, "none yet; the first campaign creates it")
            return
        newest = revisions()[-1]
        try:
            schema = revision(database)
        except NightlabError as error:
            remedy = "restore a backup of it, or choose another with NIGHTLAB_HOME"
            yield Check("ledger", State.MISSING, str(error), remedy)
            return
        found = f"{database.name}, schema {schema or 'empty'}"
        if schema in {newest, None}:
            yield Check("ledger", State.OK, found)
        elif schema in revisions():
            yield Check("ledger", State.OK, f"{found}; the next command upgrades it to {newest}")
        else:
            remedy = "upgrade nightlab, or choose another ledger with NIGHTLAB_HOME"
            yield Check("ledger", State.MISSING, f"{found}, newer than {newest}", remedy)


def language_model(settings: Settings) -> Iterator[Check]:
    """Which model proposes; whether there is a key, never the key."""
    if settings.openai_api_key is None and settings.openai_base_url is None:
        remedy = "to let a model propose: set OPENAI_API_KEY (or OPENAI_BASE_URL), NIGHTLAB_MODEL"
        yield Check("language model", State.OK, "none; the catalogue proposes", remedy)
        return
    key = "key set" if settings.openai_api_key is not None else "no key"
    where = address(settings.openai_base_url) if settings.openai_base_url else "OpenAI"
    found = f"{settings.model or 'no model named'} at {where}, {key}"
    if settings.model is None:
        yield Check("language model", State.WARNING, found, "set NIGHTLAB_MODEL to a model's name")
    else:
        yield Check("language model", State.OK, found)


def address(url: str) -> str:
    """An address without the user, password or query that it may carry."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def docker_engine() -> Iterator[Check]:
    """Whether a Docker engine answers."""
    from nightlab.sandbox.docker import Engine

    try:
        engine = Engine()
    except MissingError as missing:
        yield _lacking("docker engine", str(missing))
        return
    with closing(engine):
        runtimes = ", ".join(sorted(engine.runtimes()))
    yield Check("docker engine", State.OK, f"API {engine.version}, runtimes {runtimes}")


def _lacking(name: str, reason: str) -> Check:
    """A warning from a reason such as "no engine answers: start one"."""
    found, _, remedy = reason.rpartition(": ")
    return Check(name, State.WARNING, found or remedy, remedy if found else "")


def survey() -> "list[Readiness]":
    """Every sandbox tier, tried out, strongest first."""
    from nightlab.sandbox.choose import survey

    return survey()


def sandboxes(tiers: "Sequence[Readiness]") -> Iterator[Check]:
    """Which tiers are ready; a reason that repeats is told once."""
    told = ""
    for tier in tiers:
        name = f"sandbox {tier.tier}"
        if tier.ready:
            yield Check(name, State.OK, tier.reason)
        elif tier.reason == told:
            yield Check(name, State.WARNING, "not ready for the same reason")
        else:
            told = tier.reason
            yield _lacking(name, told)
    if not any(tier.ready for tier in tiers):
        yield Check("sandbox", State.MISSING, "no tier is ready", "see the tiers above")


def cpu(environ: Mapping[str, str]) -> Iterator[Check]:
    """Cores that this process may use, and threads per trial."""
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = psutil.cpu_count(logical=False)
    threads = environ.get("OMP_NUM_THREADS", "")
    said = f", OMP_NUM_THREADS={threads}" if threads else ""
    found = f"{usable} usable of {os.cpu_count()} threads on {cores or 'unknown'} cores{said}"
    state = State.OK if (usable or 1) > 1 else State.WARNING
    remedy = "" if state is State.OK else "run with --workers 1: two trials would share one thread"
    yield Check("cpu", state, found, remedy)


def memory() -> Iterator[Check]:
    """Memory that is free, within the control group's limit."""
    import psutil

    machine = psutil.virtual_memory()
    group = Path("/sys/fs/cgroup/memory.max")
    limit = group.read_text().strip() if group.is_file() else "max"
    total = min(machine.total, int(limit)) if limit.isdigit() else machine.total
    yield memory_check(min(machine.available, total), total)


def memory_check(free: int, total: int) -> Check:
    """The check for so many bytes."""
    found = f"{free / GIGABYTE:.1f} of {total / GIGABYTE:.1f} GB available"
    if free < LEAST_MEMORY:
        return Check("memory", State.MISSING, found, "close other programs, or add memory")
    if free < EASY_MEMORY:
        return Check("memory", State.WARNING, found, "run with --workers 1")
    return Check("memory", State.OK, found)


def gpu() -> Iterator[Check]:
    """NVIDIA GPUs as their driver lists them, and whether torch was built for them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield Check("gpu", State.OK, "none; trials run on the CPU")
        return
    line = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=20, check=False)
    listed = "; ".join(part.strip() for part in done.stdout.splitlines() if part.strip())
    if done.returncode or not listed:
        said = (done.stderr or done.stdout).strip().splitlines()
        found = f"the driver does not answer ({said[0][:200] if said else 'no output'})"
        yield Check(
            "gpu", State.WARNING, found, "check the NVIDIA driver; the CPU is used till then"
        )
        return
    if "+cpu" in versions().get("torch", ""):
        remedy = "install a CUDA build of torch to train on the GPU"
        yield Check("gpu", State.WARNING, f"{listed}; torch is built for the CPU only", remedy)
        return
    yield Check("gpu", State.OK, listed)


def triton() -> Iterator[Check]:
    """The kernels' compiler; without it the plain-PyTorch twins run."""
    version = versions().get("triton")
    if version is not None:
        yield Check("triton", State.OK, version)
    else:
        found = "not installed; kernels run as their plain PyTorch twins"
        remedy = "run `make setup` on Linux" if sys.platform.startswith("linux") else ""
        yield Check("triton", State.WARNING if remedy else State.OK, found, remedy)


def corpus() -> Iterator[Check]:
    """The packages whose source text the default task models."""
    from nightlab.evals.task import load

    wanted = [str(name) for name in load(DEFAULT_TASK).data["packages"]]
    lacking = [name for name in wanted if importlib.util.find_spec(name) is None]
    found = f"source of {len(wanted) - len(lacking)} of {len(wanted)} packages for {DEFAULT_TASK}"
    if not lacking:
        yield Check("corpus", State.OK, found)
        return
    state = State.MISSING if len(lacking) == len(wanted) else State.WARNING
    yield Check("corpus", state, f"{found}; no {', '.join(lacking)}", "run `make setup`")


def telemetry(environ: Mapping[str, str]) -> Iterator[Check]:
    """Whether a dependency was told to send what happens here elsewhere."""
    on = [name for name in TRACING if environ.get(name, "").strip().lower() in {"true", "1", "yes"}]
    if "ray" in versions() and environ.get(RAY_STATISTICS, "0").strip() != "0":
        on.append(RAY_STATISTICS)
    if on:
        remedy = f"unset {' '.join(on)}"
        yield Check("telemetry", State.WARNING, f"turned on by {', '.join(on)}", remedy)
    else:
        yield Check("telemetry", State.OK, "tracing and usage statistics are off")


def show(checks: list[Check]) -> None:
    """A table on stdout, and a line on what it comes to."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {State.OK: "green", State.WARNING: "yellow", State.MISSING: "bold red"}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("check", "state", "found and what to do"):
        table.add_column(title, overflow="fold", no_wrap=title == "state")
    for check in checks:
        found = Text(check.found)
        if check.remedy:
            found.append(f"\n-> {check.remedy}", "italic")
        table.add_row(Text(check.name), Text(check.state, styles[check.state]), found)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    console.print(table)
    missing = [check.name for check in checks if check.state is State.MISSING]
    warned = sum(check.state is State.WARNING for check in checks)
    verdict = f"missing: {', '.join(missing)}" if missing else "everything essential is here"
    console.print(f"\n{verdict}; {warned} warning{'' if warned == 1 else 's'}", markup=False)
