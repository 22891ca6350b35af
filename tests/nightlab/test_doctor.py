"""The doctor finds what is missing, says how to get it, changes nothing and tells no secret."""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from nightlab import doctor
from nightlab.doctor import Check, State
from nightlab.memory.ledger import Ledger
from nightlab.memory.schema import revisions
from nightlab.sandbox.choose import Readiness
from nightlab.settings import Settings
from nightlab.vocabulary import Tier

CANARY = "sk-canary-0123456789"
GIGABYTE = 1 << 30


PROGRAM = """
import sys
from nightlab.doctor import app
try:
    app()
finally:
    heavy = {"torch", "langgraph", "matplotlib", "openai"} & set(sys.modules)
    print(*sorted(heavy), file=sys.stderr)
"""
Done = subprocess.CompletedProcess[str]


def diagnose(home: Path, *options: str) -> Done:
    environ = {
        "NIGHTLAB_HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "OPENAI_API_KEY": CANARY,
        "OPENAI_BASE_URL": f"http://user:{CANARY}@localhost:8000/v1?key={CANARY}",
        "NIGHTLAB_MODEL": "small",
    }
    line = [sys.executable, "-c", PROGRAM, *options]
    return subprocess.run(
        line, capture_output=True, text=True, env=environ, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def healthy(home: Path) -> Done:
    return diagnose(home, "--json")


def checks(result: Done) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def only(found: list[Check]) -> Check:
    (check,) = found
    return check


def settings(home: Path, **values: str) -> Settings:
    return Settings.model_validate({"NIGHTLAB_HOME": home, **values})


def test_json_is_one_document_with_every_check_and_the_versions(healthy: Done) -> None:
    assert healthy.returncode == 0
    document = json.loads(healthy.stdout)
    assert document["ok"] is True
    assert {check["state"] for check in document["checks"]} <= {"ok", "warning"}
    assert document["versions"]["torch"]
    names = [check["name"] for check in document["checks"]]
    assert len(names) == len(set(names))
    assert {"python", "packages", "home", "disk", "ledger", "language model"} < set(names)
    assert {"docker engine", "sandbox process", "cpu", "memory", "gpu"} < set(names)
    assert {"triton", "corpus", "telemetry"} < set(names)


def test_what_is_not_there_comes_with_a_remedy(healthy: Done) -> None:
    for check in checks(healthy).values():
        told = check["remedy"] or "same reason" in check["found"]
        assert check["state"] == "ok" or told, check


def test_looking_creates_nothing_and_imports_nothing_heavy(healthy: Done, home: Path) -> None:
    assert "none yet" in checks(healthy)["ledger"]["found"]
    assert list(home.iterdir()) == []
    assert healthy.stderr.strip() == ""


def test_no_key_and_no_password_is_ever_printed(healthy: Done) -> None:
    assert "small at http://localhost:8000/v1, key set" in healthy.stdout
    assert CANARY not in healthy.stdout + healthy.stderr


def test_a_home_that_cannot_be_written_is_missing_and_the_rest_is_still_told(
    tmp_path: Path,
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    result = diagnose(file / "home")
    assert result.returncode == 3
    assert "missing: home; " in result.stdout
    assert "set NIGHTLAB_HOME to a folder that you own" in result.stdout
    assert "sandbox process" in result.stdout


def test_the_table_has_a_line_for_each_check_and_its_remedy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    doctor.show([Check("gpu", State.WARNING, "[red]none[/red]", "buy one"), *doctor.python()])
    said = capsys.readouterr().out
    assert "gpu     warning  [red]none[/red]" in said
    assert "-> buy one" in said
    assert "everything essential is here; 1 warning\n" in said


def test_a_ledger_is_shown_with_its_schema(tmp_path: Path) -> None:
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path / "artifacts"):
        pass
    found = only(list(doctor.ledger(settings(tmp_path))))
    assert found.state is State.OK
    assert f"schema {revisions()[-1]}" in found.found


def test_a_ledger_of_a_newer_nightlab_is_missing(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as base, base:
        base.execute("CREATE TABLE alembic_version (version_num TEXT)")
        base.execute("INSERT INTO alembic_version VALUES ('9999')")
    found = only(list(doctor.ledger(settings(tmp_path))))
    assert found.state is State.MISSING
    assert "newer" in found.found
    assert "upgrade nightlab" in found.remedy


def test_a_file_that_is_no_ledger_is_missing(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("this is no database" * 200)
    found = only(list(doctor.ledger(settings(tmp_path))))
    assert found.state is State.MISSING
    assert "backup" in found.remedy


def test_an_endpoint_without_a_model_is_a_warning_and_no_endpoint_is_fine(tmp_path: Path) -> None:
    unnamed = settings(tmp_path, OPENAI_API_KEY=CANARY)
    assert only(list(doctor.language_model(unnamed))).state is State.WARNING
    assert "at OpenAI" in only(list(doctor.language_model(unnamed))).found


@pytest.mark.parametrize("name", doctor.TRACING)
@pytest.mark.parametrize(("value", "state"), [("true", State.WARNING), ("false", State.OK)])
def test_tracing_that_is_turned_on_is_a_warning(name: str, value: str, state: State) -> None:
    found = only(list(doctor.telemetry({name: value})))
    assert found.state is state
    assert (name in found.remedy) is (state is State.WARNING)


def test_little_disk_and_memory_are_warnings_and_none_is_missing() -> None:
    for size, state in (
        (64 * GIGABYTE, State.OK),
        (2 * GIGABYTE, State.WARNING),
        (GIGABYTE // 10, State.MISSING),
    ):
        assert only(list(doctor.disk(size))).state is state
        assert doctor.memory_check(size, 64 * GIGABYTE).state is state


def test_a_reason_that_two_tiers_share_is_told_once_with_its_remedy() -> None:
    reason = "no engine answers: start one"
    tiers = [
        Readiness(Tier.DOCKER_RUNSC, False, reason),
        Readiness(Tier.DOCKER, False, reason),
        Readiness(Tier.PROCESS, True, "isolates nothing"),
    ]
    first, second, third = doctor.sandboxes(tiers)
    assert first == Check("sandbox docker+runsc", State.WARNING, "no engine answers", "start one")
    assert "same reason" in second.found
    assert third.state is State.OK


def test_without_any_ready_tier_the_sandbox_is_missing() -> None:
    found = list(doctor.sandboxes([Readiness(Tier.BWRAP, False, "bubblewrap is not installed")]))
    assert found[-1].state is State.MISSING


def test_a_gpu_that_the_driver_lists_is_shown_and_a_broken_driver_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("nvidia-smi") is None
    assert only(list(doctor.gpu())).found == "none; trials run on the CPU"
    program.write_text("#!/bin/sh\necho 'H100, 81559 MiB, 570.1'\n")
    program.chmod(0o755)
    assert "H100, 81559 MiB" in only(list(doctor.gpu())).found
    program.write_text("#!/bin/sh\necho 'driver mismatch' >&2\nexit 9\n")
    broken = only(list(doctor.gpu()))
    assert (broken.state, "driver mismatch" in broken.found) == (State.WARNING, True)
