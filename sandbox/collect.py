"""Taking files out of a folder that hostile code wrote, after everything that could write is dead.

Only plain files by expected name, each read once through a descriptor that refuses links, each
within its cap. Safetensors headers are checked before a library parses them; nothing is unpickled.
"""

import json
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

MAX_SAFETENSORS_HEADER = 4 << 20


def collect(folder: Path, expected: Mapping[str, int], into: Path) -> str | None:
    """Copy the expected files (name to largest size in bytes) from ``folder`` into ``into``.

    Returns None when all went well, else one line that says why not; ``into`` is then useless.
    """
    present = {entry.name for entry in os.scandir(folder)}
    if missing := set(expected) - present:
        return f"missing output: {', '.join(sorted(missing))}"
    if unexpected := present - set(expected):
        return f"unexpected output: {', '.join(sorted(unexpected))[:200]}"
    for name, cap in expected.items():
        if reason := _copy(folder / name, cap, into / name):
            return f"{name}: {reason}"
    return None


def _copy(source: Path, cap: int, target: Path) -> str | None:
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return f"cannot be opened as a plain file ({error.strerror})"
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            return "not a plain file"
        if status.st_size > cap:
            return f"{status.st_size} bytes, at most {cap} allowed"
        content = file.read(cap + 1)
    if len(content) != status.st_size:
        return "changed while it was read"
    if reason := refuse(target.name, content):
        return reason
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(out, "wb") as copy:
        copy.write(content)
    return None


def refuse(name: str, content: bytes) -> str | None:
    """Why a collected file is malformed, by its ending; None if it is fine."""
    if name.endswith(".safetensors"):
        return _refuse_safetensors(content)
    if name.endswith(".jsonl"):
        return _refuse_json_lines(content)
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
    try:
        for line in content.splitlines():
            if not isinstance(json.loads(line), dict):
                return "a line that is not a JSON object"
    except (ValueError, RecursionError):
        return "a line that is not JSON"
    return None
