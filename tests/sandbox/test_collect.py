"""The collector takes plain, whole, well-formed files and says why it takes nothing else."""

import io
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from nightlab.sandbox.collect import collect, collect_archive, refuse

GOOD = save({"a": np.ones(3, np.float32), "b": np.zeros((2, 2), np.float32)})


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    out, into = tmp_path / "out", tmp_path / "into"
    out.mkdir()
    into.mkdir()
    return out, into


def test_plain_files_within_their_caps_are_copied(folders: tuple[Path, Path]) -> None:
    out, into = folders
    (out / "w.safetensors").write_bytes(GOOD)
    assert collect(out, {"w.safetensors": len(GOOD)}, into) is None
    assert (into / "w.safetensors").read_bytes() == GOOD


def test_a_file_one_byte_over_its_cap_is_refused(folders: tuple[Path, Path]) -> None:
    out, into = folders
    (out / "w.safetensors").write_bytes(GOOD)
    assert "at most" in str(collect(out, {"w.safetensors": len(GOOD) - 1}, into))
    assert list(into.iterdir()) == []


def test_a_missing_file_is_named_and_a_hostile_name_is_escaped(folders: tuple[Path, Path]) -> None:
    out, into = folders
    assert collect(out, {"a": 1}, into) == "missing output: a"
    (out / "a").touch()
    (out / "\x1b[31m").touch()
    reason = str(collect(out, {"a": 1}, into))
    assert reason.isprintable()
    assert "unexpected" in reason


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        root = tarfile.TarInfo("out")
        root.type = tarfile.DIRTYPE
        tar.addfile(root)
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    file.seek(0)
    return file


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_an_archive_of_plain_files_is_taken(tmp_path: Path) -> None:
    file = archive((member("out/a.bin"), b"abc"))
    assert collect_archive(file, "out", {"a.bin": 3}, tmp_path) is None
    assert (tmp_path / "a.bin").read_bytes() == b"abc"


@pytest.mark.parametrize(
    "info",
    [
        member("out/a.bin", tarfile.SYMTYPE, "/etc/passwd"),
        member("out/a.bin", tarfile.LNKTYPE, "/etc/passwd"),
        member("out/a.bin", tarfile.FIFOTYPE),
        member("out/a.bin", tarfile.CHRTYPE),
        member("out/a.bin", tarfile.DIRTYPE),
        member("out/../a.bin"),
        member("/a.bin"),
        member("out/b.bin"),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
def test_an_archive_with_any_other_member_is_refused(info: tarfile.TarInfo, tmp_path: Path) -> None:
    assert collect_archive(archive((info, b"")), "out", {"a.bin": 10}, tmp_path) is not None
    assert list(tmp_path.iterdir()) == []


def test_an_archive_with_a_file_twice_is_refused(tmp_path: Path) -> None:
    twice = archive((member("out/a.bin"), b"1"), (member("out/a.bin"), b"2"))
    assert collect_archive(twice, "out", {"a.bin": 10}, tmp_path) is not None


def test_a_cut_off_archive_is_a_reason_and_not_an_error(tmp_path: Path) -> None:
    whole = archive((member("out/a.bin"), b"x" * 2000)).getvalue()
    assert collect_archive(io.BytesIO(whole[:1300]), "out", {"a.bin": 9999}, tmp_path) is not None


@given(st.binary(max_size=200))
def test_no_bytes_make_the_checks_of_outputs_raise(content: bytes) -> None:
    for name in ("x.safetensors", "x.jsonl"):
        reason = refuse(name, content)
        assert reason is None or reason


@given(st.integers(0, 2**64 - 1))
def test_a_header_longer_than_its_file_is_refused(length: int) -> None:
    content = struct.pack("<Q", length) + b"{}"
    assert (refuse("x.safetensors", content) is None) == (length == 2)


def test_the_library_s_own_files_pass_and_lose_that_with_any_byte_cut_off() -> None:
    assert refuse("x.safetensors", GOOD) is None
    assert refuse("x.safetensors", GOOD[:-1]) is not None


def test_the_output_folder_itself_may_not_be_a_link(tmp_path: Path) -> None:
    os.symlink("/etc", tmp_path / "out")
    assert "cannot be opened" in str(collect(tmp_path / "out", {"passwd": 9999}, tmp_path))
