"""Which GPU this machine has, asked of its driver: the host imports no torch to find out."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any


@lru_cache(maxsize=1)
def first() -> str | None:
    """UUID of the first NVIDIA GPU, or None where there is none or torch was built for the CPU."""
    program = shutil.which("nvidia-smi")
    if program is None or _cpu_only():
        return None
    line = [program, "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = done.stdout.split()
    return found[0] if done.returncode == 0 and found else None


def _cpu_only() -> bool:
    try:
        return "+cpu" in version("torch")
    except PackageNotFoundError:
        return True


def without(
    table: Mapping[str, Any], files: Mapping[str, str]
) -> tuple[Mapping[str, Any], dict[str, str], str]:
    """A task as its ``[cpu]`` table says it is run without a GPU, and a line for the person.

    Raises:
        ValueError: a dial is no field of the program's recipe.
    """
    cpu = table["cpu"]
    dialled = dict(files)
    for name, value in cpu.get("dials", {}).items():
        dialled = _dial(dialled, name, value)
    limits = {**table.get("limits", {}), **cpu.get("limits", {})}
    listed = ", ".join(f"{rung['name']} {rung['cpu_seconds']:g} s" for rung in cpu["rungs"])
    dials = ", ".join(f"{name} {value:g}" for name, value in cpu.get("dials", {}).items())
    note = f"no GPU: {table['name']} runs on its CPU rungs ({listed}), made small: {dials}"
    return {**table, "rungs": cpu["rungs"], "limits": limits}, dialled, note


def _dial(files: Mapping[str, str], name: str, value: float) -> dict[str, str]:
    pattern = re.compile(rf"^(    {name}: (?:int|float) = )\S+$", re.MULTILINE)
    found = {file: text for file, text in files.items() if pattern.search(text)}
    if not found:
        raise ValueError(f"[cpu] dials: the recipe has no field {name}")
    return {**files, **{f: pattern.sub(rf"\g<1>{value!r}", text, 1) for f, text in found.items()}}
