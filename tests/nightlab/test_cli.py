"""The command line as a person meets it: real processes, exit codes, one JSON document."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCREENFUL = 12
"""Lines; a user's mistake never takes more."""


def nightlab(
    *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """One command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "nightlab", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "lower val_bpb", "--task", "nosuch"], 2, "byte_lm"),
        (["run", "make it purple", "--sandbox", "process"], 2, "purple"),
        (["run", "lower val_bpb", "--minutes", "0"], 2, "--minutes"),
        (["run", "lower val_bpb", "--trials", "-3"], 2, "--trials"),
        (["run", "lower val_bpb in 2 seconds", "--sandbox", "process"], 2, "too few"),
        (["run", "lower val_bpb", "--sandbox", "castle"], 2, "docker"),
        (["run", "lower val_bpb", "--proposer", "oracle"], 2, "catalogue"),
        (["run", "lower val_bpb", "--workers", "0"], 2, "--workers"),
        (["overnight", "lower val_bpb", "--until", "dawn"], 2, "07:00"),
        (["show", "c9"], 2, "c9"),
        (["resume", "c9"], 2, "c9"),
        (["stop", "c9"], 2, "c9"),
        (["diff", "c9-1"], 2, "c9"),
        (["spectra", "nowhere"], 2, "nowhere"),
        (["spectra", "a", "a"], 2, "itself"),
        (["spectra", "a", "--out", "a.svg"], 2, ".png"),
        (["show", "c9", "--policy"], 2, "c9"),
        (["learn", "--policy", "bandit"], 2, "warm"),
    ],
)
def test_a_mistake_gets_its_exit_code_and_a_remedy(
    arguments: list[str], code: int, says: str
) -> None:
    done = nightlab(*arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= SCREENFUL
    assert done.stdout == ""


def test_an_unwritable_home_is_a_missing_environment() -> None:
    done = nightlab("list", env={"NIGHTLAB_HOME": "/proc/nowhere"})
    assert done.returncode == 3
    assert "NIGHTLAB_HOME" in done.stderr


def broken(tiny_task: Path, folder: Path, line: str) -> str:
    """A task whose baseline has one more line."""
    folder.mkdir()
    for name in ("task.toml", "program.py"):
        (folder / name).write_text((tiny_task / name).read_text())
    with (folder / "program.py").open("a") as program:
        program.write(f"\n{line}\n")
    return str(folder)


@pytest.mark.parametrize("line", ["class Model(", "raise ValueError('out of order')", "import pip"])
def test_a_task_with_a_broken_program_is_a_mistake(
    tiny_task: Path, tmp_path: Path, line: str
) -> None:
    task = broken(tiny_task, tmp_path / "broken", line)
    done = nightlab(
        "run", "lower val_bpb", "--trials", "40", "--task", task, "--sandbox", "process"
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "mend it" in done.stderr
    assert done.stdout == ""


def test_a_goal_is_shown_with_its_plan_and_runs_nothing() -> None:
    done = nightlab("goal", "lower val_bpb by 5 % in 30 minutes", "--json")
    shown = json.loads(done.stdout)
    assert shown["objective"]["target_percent"] == 5
    assert shown["plan"]["confirm"]["name"] == "full"
    assert json.loads(nightlab("list", "--json").stdout) == {"campaigns": []}


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, nightlab.cli; "
        "heavy = {'torch', 'langgraph', 'openai', 'matplotlib', 'scipy', 'sqlmodel', 'docker'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


OFFLINE = """
import sys
def guard(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        if not str(arguments[1][0]).startswith(("127.", "::1", "localhost")):
            raise SystemExit(f"connected to {arguments[1]}")
    if event == "socket.getaddrinfo" and arguments[0] not in (None, "localhost", "127.0.0.1"):
        raise SystemExit(f"looked up {arguments[0]}")
sys.addaudithook(guard)
from nightlab.cli import main
sys.argv = ["nightlab", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
def test_a_run_prints_one_document_that_the_other_commands_agree_with(tiny_task: Path) -> None:
    """Also: it connects to nothing but loopback from start to end."""
    run = ["run", "lower val_bpb", "--task", str(tiny_task), "--trials", "26", "--seed", "1"]
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, *run, "--sandbox", "process", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    wanted = {"campaign", "task", "tier", "proposer", "objective", "baseline", "noise_floor"}
    wanted |= {"best", "counts", "trials", "wall_seconds", "overhead_seconds_median", "report"}
    assert wanted <= set(document)
    assert {"metric", "direction", "constraints"} <= set(document["objective"])
    best = {"experiment", "program", "value", "interval", "holdout", "gain_percent", "edits"}
    assert best <= set(document["best"])
    shown = json.loads(nightlab("show", document["campaign"], "--json").stdout)
    for key in ("best", "baseline", "counts", "trials", "noise_floor"):
        assert shown[key] == document[key]
    report = Path(document["report"]).read_text()
    assert document["best"]["experiment"] in report
    experiment = shown["experiments"][0]["experiment"]["id"]
    difference = json.loads(nightlab("diff", experiment, "--json").stdout)
    assert difference["experiment"] == experiment
    log = json.loads(nightlab("log", document["campaign"], "--json").stdout)
    assert log["events"]


@pytest.mark.slow
def test_a_signal_drains_reports_and_leaves_a_campaign_that_can_be_resumed(
    tiny_task: Path, tmp_path: Path
) -> None:
    run = ["run", "lower val_bpb", "--task", str(tiny_task), "--trials", "26", "--seed", "2"]
    with (tmp_path / "stderr").open("w") as stderr:
        running = subprocess.Popen(
            [sys.executable, "-m", "nightlab", *run, "--sandbox", "process", "--json"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        until(lambda: "c1" in nightlab("list").stdout)
        until(lambda: len(json.loads(nightlab("show", "c1", "--json").stdout)["experiments"]) > 1)
        os.kill(running.pid, signal.SIGTERM)
        document = json.loads(running.communicate(timeout=120)[0])
    assert running.returncode == 0
    assert document["status"] == "stopped"
    assert Path(document["report"]).exists()


def until(reached: Callable[[], bool], seconds: float = 120) -> None:
    """Ask again and again; fails when it does not come about in time."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "waited too long"
