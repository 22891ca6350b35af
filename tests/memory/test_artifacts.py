"""Files by content: whole or absent, and never silently damaged."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightlab.errors import LedgerError, UsageError
from nightlab.memory.artifacts import Artifacts

FILL_THE_DISK = """
import resource, signal, sys
from pathlib import Path
from nightlab.errors import LedgerError
from nightlab.memory.artifacts import Artifacts
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    Artifacts(Path(sys.argv[1])).put_bytes(b"x" * 100_000)
except LedgerError as error:
    print(error)
"""


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=3000))
def test_content_comes_back_and_is_stored_once(content: bytes, tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "store")
    (tmp_path / "file").write_bytes(content)
    first, second = artifacts.put_bytes(content), artifacts.put_file(tmp_path / "file")
    assert first == second
    assert first.bytes == len(content)
    assert artifacts.get(first.sha256) == content
    assert artifacts.path(first.sha256).read_bytes() == content


def test_damage_is_noticed_on_reading(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    stored = artifacts.put_bytes(b"weights")
    artifacts.path(stored.sha256).write_bytes(b"weighty")
    with pytest.raises(LedgerError, match="is damaged"):
        artifacts.get(stored.sha256)


def test_damage_is_repaired_by_storing_the_content_again(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    stored = artifacts.put_bytes(b"weights")
    artifacts.path(stored.sha256).write_bytes(b"weighty")
    assert artifacts.put_bytes(b"weights") == stored
    assert artifacts.get(stored.sha256) == b"weights"


def test_unknown_content_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not in"):
        Artifacts(tmp_path).get("0" * 64)


def test_a_full_disk_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "File too large" in done.stdout
    assert done.stdout.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE) != (4096, 4096)


def test_a_finished_folder_is_taken_whole_without_its_links(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "store")
    folder = tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    (folder / "curve.jsonl").write_text("{}\n")
    (folder / "deep" / "weights").write_bytes(b"w")
    (folder / "link").symlink_to("/etc/hostname")
    found = artifacts.take_folder(folder)
    assert sorted(found) == ["curve.jsonl", "deep/weights"]
    assert artifacts.get(found["deep/weights"].sha256) == b"w"
    assert not folder.exists()
