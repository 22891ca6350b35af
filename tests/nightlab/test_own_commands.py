"""`nightlab data` and `nightlab task` as a person meets them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest


def nightlab(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "nightlab", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(25):
        lines = (f"line {n} of text {i} says {n * i}\n" for n in range(200))
        (folder / f"{i}.txt").write_text("".join(lines))
    return folder


def test_a_corpus_is_added_listed_prepared_and_kept(texts: Path) -> None:
    pytest.importorskip("tokenizers")
    made = json.loads(nightlab("data", "add", "mine", texts, "--json").stdout)["corpus"]
    assert (made["files"], made["split"]) == (25, "by file")
    (texts / "more.txt").write_text("another line\n" * 500)
    again = nightlab("data", "add", "mine", texts)
    assert again.returncode == 2
    assert "--replace" in again.stderr
    assert json.loads(nightlab("data", "list", "--json").stdout) == {"corpora": [made]}
    done = nightlab("data", "prepare", "gpt", "--corpus", "mine", "--json")
    shards = json.loads(done.stdout)["shards"]
    assert shards["bytes"]["search"] == made["search_bytes"]
    assert shards["tokens"]["search"] < made["search_bytes"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["data", "add", "mine", "nowhere.txt"], 2, "nowhere.txt"),
        (["data", "add", "UP", "nowhere.txt"], 2, "a-z"),
        (["data", "prepare", "byte_lm"], 2, "no token shards"),
        (["data", "prepare", "gpt", "--corpus", "none"], 2, "nightlab data add"),
        (["data", "prepare", "gpt", "--corpus", "a", "--hf", "b"], 2, "one of"),
        (["run", "lower val_bpb", "--data", "none", "--sandbox", "process"], 2, "data add"),
        (["task", "new", "byte_lm"], 2, "ships"),
        (["task", "check", "./none"], 2, "task.toml"),
    ],
)
def test_a_mistake_with_data_or_tasks_gets_its_exit_code_and_a_remedy(
    arguments: list[str], code: int, says: str, tmp_path: Path
) -> None:
    done = nightlab(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_where_the_data_set_library_is_missing_the_remedy_is_said() -> None:
    block = "import sys; sys.modules['datasets'] = None; from nightlab.cli import main; main()"
    line = [sys.executable, "-c", block, "data", "prepare", "gpt", "--hf", "some/data"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "pip install datasets" in done.stderr


def test_a_new_task_is_listed_and_a_broken_one_beside_it_is_named(tmp_path: Path) -> None:
    assert nightlab("task", "new", "mine", cwd=tmp_path).stdout == "./mine\n"
    assert nightlab("task", "new", "mine", cwd=tmp_path).returncode == 2
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "task.toml").write_text("name = 3")
    listed = json.loads(nightlab("task", "list", "--json", cwd=tmp_path).stdout)
    assert {"byte_lm", "gpt", "./mine"} <= {row["task"] for row in listed["tasks"]}
    assert [row["task"] for row in listed["unusable"]] == ["./broken"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code"), [(("", ""), 0), (('"weights.safetensors"', '"w.safetensors"'), 1)]
)
def test_the_check_exits_with_one_where_there_is_a_problem(
    change: tuple[str, str], code: int, tmp_path: Path
) -> None:
    nightlab("task", "new", "mine", cwd=tmp_path)
    file = tmp_path / "mine" / "task.toml"
    file.write_text(re.sub(r"cpu_seconds = \d", "cpu_seconds = 0.5", file.read_text()))
    file.write_text(file.read_text().replace(*change))
    done = nightlab("task", "check", "./mine", "--sandbox", "process", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"]) == (code, code == 0)
    if code == 0:
        low, high = found["noise"]["sd_interval"]
        assert low < found["noise"]["sd"] < high
    else:
        assert [row["check"] for row in found["findings"] if row["remedy"]]
