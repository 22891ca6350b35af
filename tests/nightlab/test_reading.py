"""list, show, diff, log and report: one document for programs, one screen for people."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nightlab.errors import UsageError
from nightlab.memory.example import Clock, Example
from nightlab.memory.ledger import Ledger
from nightlab.memory.report.words import clean
from nightlab.reading import app

FOLLOW = """
import sys
from nightlab.reading import app
app(["log", "c1", "--follow"])
"""


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one short campaign, c1."""
    home, clock = tmp_path_factory.mktemp("home"), Clock()
    with Ledger.open(f"sqlite:///{home / 'ledger.db'}", home / "artifacts", clock=clock) as ledger:
        Example(ledger, clock).play(experiments=10)
    return home


@pytest.fixture
def home(stocked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That home, chosen by the environment."""
    monkeypatch.setenv("NIGHTLAB_HOME", str(stocked))
    monkeypatch.delenv("NIGHTLAB_DATABASE_URL", raising=False)
    return stocked


def printed(*arguments: str) -> str:
    """What a command prints on stdout."""
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def document(*arguments: str) -> dict[str, object]:
    """The one document that a command prints."""
    found = json.loads(printed(*arguments, "--json"))
    assert isinstance(found, dict)
    return found


@pytest.mark.usefixtures("home")
def test_the_campaigns_document_has_the_promised_keys() -> None:
    found = document("show", "c1")
    promised = (
        "campaign task tier proposer objective baseline noise_floor best counts trials "
        "wall_seconds overhead_seconds_median report"
    )
    assert set(promised.split()) <= set(found)
    assert set(dict(found["objective"])) >= {"metric", "direction", "constraints"}  # type: ignore[call-overload]
    assert set(dict(found["baseline"])) >= {"value", "interval"}  # type: ignore[call-overload]
    best = "experiment program value interval holdout gain_percent edits"
    assert set(dict(found["best"])) >= set(best.split())  # type: ignore[call-overload]


@pytest.mark.usefixtures("home")
def test_list_show_and_report_agree() -> None:
    shown = document("show", "c1")
    listed = document("list")["campaigns"]
    reported = document("report", "c1")
    assert isinstance(listed, list)
    for key in ("baseline", "best", "counts", "trials", "noise_floor", "wall_seconds"):
        assert shown[key] == reported[key]
        assert shown[key] == listed[0][key]


@pytest.mark.usefixtures("home")
def test_diff_agrees_with_the_best_edits_and_the_programs_shown() -> None:
    best = document("show", "c1")["best"]
    assert isinstance(best, dict)
    found = document("diff", best["experiment"], "--baseline")
    assert (found["against"], found["edits"]) == ("c1-0", best["edits"])
    files = document("show", best["experiment"])["files"]
    base = document("show", "c1-0")["files"]
    assert isinstance(files, dict)
    assert isinstance(base, dict)
    new = len(files["model.py"].splitlines()) - len(base["model.py"].splitlines())
    assert found["lines_added"] == new
    assert printed("diff", best["experiment"], "--baseline") == found["diff"]


@pytest.mark.usefixtures("home")
def test_diff_is_against_the_parent_unless_the_baseline_is_asked_for() -> None:
    best = document("show", "c1")["best"]
    assert isinstance(best, dict)
    parent = document("show", best["experiment"])["parent"]
    assert document("diff", best["experiment"])["against"] == parent
    with pytest.raises(UsageError, match="c1-0 has no parent"):
        printed("diff", "c1-0")


def test_files_writes_the_experiments_program(home: Path, tmp_path: Path) -> None:
    files = document("show", "c1-1", "--files", str(tmp_path / "out"))["files"]
    assert home
    assert files == {"model.py": (tmp_path / "out" / "model.py").read_text()}


@pytest.mark.usefixtures("home")
def test_show_filters_sorts_and_pages() -> None:
    kept = document("show", "c1", "--verdict", "confirmed", "--sort", "gain", "--limit", "2")
    entries = kept["experiments"]
    assert isinstance(entries, list)
    gains = [entry["experiment"]["estimate"]["gain"] for entry in entries]
    assert len(gains) == 2
    assert gains == sorted(gains, reverse=True)
    with pytest.raises(UsageError, match="cannot sort by 'luck': choose number, gain"):
        printed("show", "c1", "--sort", "luck")


@pytest.mark.usefixtures("home")
def test_a_trials_document_has_its_run_and_its_score() -> None:
    trials = document("show", "c1-0")["trials"]
    assert isinstance(trials, list)
    found = document("show", trials[0]["id"])
    assert found == trials[0]
    assert found["overhead_seconds"] == pytest.approx(0.5)


@pytest.mark.usefixtures("home")
def test_the_screens_show_what_the_documents_say() -> None:
    found = document("show", "c1")
    best = found["best"]
    assert isinstance(best, dict)
    screen = printed("show", "c1")
    assert f"{best['value']:.4f}" in screen
    assert f"{best['gain_percent']:.1f} %" in screen
    assert best["experiment"] in printed("list") or "c1" in printed("list")
    assert "hypothesis" in printed("show", best["experiment"])
    assert "purpose" in printed("show", best["trials"][0])
    assert "the budget is spent" in printed("log", "c1").splitlines()[-1]


@pytest.mark.usefixtures("home")
def test_the_log_is_shown_from_its_end() -> None:
    every = document("log", "c1")["events"]
    some = document("log", "c1", "--limit", "3")["events"]
    assert isinstance(every, list)
    assert every[-3:] == some
    with pytest.raises(UsageError, match="cannot follow"):
        printed("log", "c1", "--follow", "--json")


def test_following_a_log_ends_with_the_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTLAB_HOME", str(tmp_path))
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Ledger.open(url, tmp_path / "artifacts") as ledger:
        Example(ledger, Clock()).play(experiments=0)
        lease = ledger.acquire_lease("c1", "test:1", seconds=1000)
        command = [sys.executable, "-c", FOLLOW]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
            lines = iter_lines(follower)
            assert any("held by test:1" in line for line in lines)
            ledger.log("c1", "note", "a new line")
            assert any("a new line" in line for line in lines)
            ledger.log("c1", "note", "the last line")
            ledger.release_lease(lease)
            assert any("the last line" in line for line in lines)
            assert follower.wait(timeout=30) == 0


def iter_lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Lines as they come."""
    assert process.stdout is not None
    yield from process.stdout


@pytest.mark.parametrize("name", ["c9", "c9-1", "c1-99", "c1-0/small/7", "nonsense"])
@pytest.mark.usefixtures("home")
def test_an_unknown_id_is_a_usage_error_that_says_what_there_is(name: str) -> None:
    with pytest.raises(UsageError, match=r"there is no|there are"):
        printed("show", name)


def test_an_empty_home_names_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTLAB_HOME", str(tmp_path / "new"))
    assert "nightlab run" in printed("list")
    assert document("list") == {"campaigns": []}


def test_foreign_text_cannot_drive_the_terminal() -> None:
    assert clean("a\x1b[31mred\x07\r\nnext\tcell") == "a\ufffd[31mred\ufffd\ufffd\nnext\tcell"


def test_importing_the_commands_imports_nothing_heavy() -> None:
    script = "import sys, nightlab.reading; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["sqlmodel", "sqlalchemy", "matplotlib", "scipy", "torch", "numpy", "jinja2"]
    done = subprocess.run(
        [sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_commands_are_a_typer_app_that_can_be_composed() -> None:
    parent = typer.Typer()
    parent.add_typer(app)
    done = CliRunner().invoke(parent, ["--help"])
    assert all(name in done.stdout for name in ("list", "show", "diff", "log", "report"))
