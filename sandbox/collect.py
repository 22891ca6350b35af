"""Taking files out of what hostile code wrote, after everything that could write is dead.

Only plain files by expected name, each read once through a descriptor that refuses links, each
within its cap. Safetensors headers are checked before a library parses them; nothing is unpickled.
Reasons are for people and may quote hostile names: escaped and short.
"""

import json
import math
import os
import stat
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

MAX_SAFETENSORS_HEADER = 4 << 20
MAX_MEMBERS = 64
MAX_LINE_BYTES = 1 << 16


def collect(folder: Path | int, expected: Mapping[str, int], into: Path) -> str | None:
    """Copy the expected files (name to largest size in bytes) from ``folder`` into ``into``.

    ``folder`` is a path or an open folder. Returns None when all went well, else one line that
    says why not; ``into`` is then useless.

    Raises:
        OSError: ``into`` cannot be written.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        opened = os.open(folder, flags) if isinstance(folder, Path) else os.dup(folder)
    except OSError as error:
        return f"the output folder cannot be opened ({error.strerror})"
    try:
        if reason := _listing(opened, expected):
            return reason
        for name, cap in expected.items():
            if reason := _copy(opened, name, cap, into):
                return f"{name}: {reason}"
        return None
    finally:
        os.close(opened)


def _listing(folder: int, expected: Mapping[str, int]) -> str | None:
    names: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            names.add(entry.name)
            if len(names) > MAX_MEMBERS:
                return f"unexpected output: more than {MAX_MEMBERS} names"
    return _compare(names, expected)


def _compare(names: set[str], expected: Mapping[str, int]) -> str | None:
    if missing := set(expected) - names:
        return f"missing output: {', '.join(sorted(missing))}"
    if unexpected := names - set(expected):
        return f"unexpected output: {ascii(sorted(unexpected))[:200]}"
    return None


def _copy(folder: int, name: str, cap: int, into: Path) -> str | None:
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        return f"cannot be opened as a plain file ({error.strerror})"
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(fd)
        return "not a plain file"
    with os.fdopen(fd, "rb") as file:
        if status.st_size > cap:
            return f"{status.st_size} bytes, at most {cap} allowed"
        content = file.read(cap + 1)
    if len(content) != status.st_size:
        return "changed while it was read"
    return _keep(name, content, into)


def collect_archive(
    archive: BinaryIO, root: str, expected: Mapping[str, int], into: Path
) -> str | None:
    """As :func:`collect`, from an uncompressed tar of a folder that is named ``root`` in it.

    Never extracts: one pass, plain members by expected name, our own writes.
    """
    names: set[str] = set()
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            for count, member in enumerate(tar):
                if count == 0 and member.isdir() and member.name == root:
                    continue
                name = member.name.removeprefix(root + "/")
                if count > MAX_MEMBERS or name in names or name not in expected:
                    return f"unexpected output: {ascii(name)[:200]}"
                names.add(name)
                if reason := _take(tar, member, expected[name], into / name):
                    return f"{name}: {reason}"
    except tarfile.TarError as error:
        return f"an unreadable archive: {error}"
    return _compare(names, expected)


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, cap: int, target: Path) -> str | None:
    if member.type != tarfile.REGTYPE or member.issparse():
        return "not a plain file"
    if member.size > cap:
        return f"{member.size} bytes, at most {cap} allowed"
    source = tar.extractfile(member)
    content = source.read(cap + 1) if source else b""
    if len(content) != member.size:
        return "truncated"
    return _keep(target.name, content, target.parent)


def _keep(name: str, content: bytes, into: Path) -> str | None:
    if reason := refuse(name, content):
        return reason
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(into / name, flags, 0o600), "wb") as copy:
        copy.write(content)
    return None


def refuse(name: str, content: bytes) -> str | None:
    """Why a collected file is malformed, by its ending; None if it is fine."""
    if name.endswith(".safetensors"):
        return _refuse_safetensors(content)
    if name.endswith(".jsonl"):
        return _refuse_json_lines(content)
    if name.endswith(".json"):
        try:
            json.loads(content)
        except (ValueError, RecursionError):
            return "not JSON"
    return None


def _refuse_safetensors(content: bytes) -> str | None:
    if len(content) < 8:
        return "too short for safetensors"
    (length,) = struct.unpack("<Q", content[:8])
    if length > min(MAX_SAFETENSORS_HEADER, len(content) - 8):
        return f"a safetensors header of {length} bytes"
    try:
        header = json.loads(content[8 : 8 + length])
        spans = sorted(
            tuple(entry["data_offsets"]) for key, entry in header.items() if key != "__metadata__"
        )
        at = 0
        for start, end in spans:
            if start != at or end < start:
                return "safetensors offsets with gaps or overlaps"
            at = end
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "a malformed safetensors header"
    return None if at == len(content) - 8 - length else "safetensors of the wrong length"


def _refuse_json_lines(content: bytes) -> str | None:
    for line in content.split(b"\n"):
        if len(line) > MAX_LINE_BYTES:
            return f"a line of {len(line)} bytes"
        try:
            point = json.loads(line) if line else {}
        except (ValueError, RecursionError):
            return "a line that is not JSON"
        if not isinstance(point, dict):
            return "a line that is not a JSON object"
        if any(isinstance(v, float) and not math.isfinite(v) for v in point.values()):
            return "a number that is not finite"
    return None
