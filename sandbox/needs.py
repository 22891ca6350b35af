"""What torch needs of this host, and nothing else: what a jail is furnished with.

Never the whole interpreter prefix: the packages beside torch are what a task may be scored on.
"""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from nightlab.errors import MissingError

PACKAGES = ("torch", "numpy", "safetensors", "triton")
HIDDEN_OF_STDLIB = ("site-packages", "dist-packages", "ensurepip", "test", "idlelib")
GRAPHICS = ("_tkinter", "_curses", "readline")
"""Extension modules whose libraries no trainer needs."""


@dataclass(frozen=True)
class Needs:
    """Host path to guest path, all read-only."""

    binds: tuple[tuple[Path, str], ...]
    hidden: tuple[str, ...]
    """Guest folders to cover with an empty one."""


def find() -> Needs:
    """Work it out for the running interpreter.

    Raises:
        MissingError: a package or the tool ``ldd`` is not installed.
    """
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    stdlib = Path(sysconfig.get_path("stdlib"))
    guest_stdlib = f"/opt/python/lib/{stdlib.name}"
    site = dict(_site_entries(PACKAGES))
    binaries = [python, *(stdlib / "lib-dynload").glob("*.so"), *_shared_objects(site)]
    binaries = [b for b in binaries if not b.name.startswith(GRAPHICS)]
    binds = [(python, "/opt/python/bin/python3"), (stdlib, guest_stdlib)]
    binds += [(path, f"/opt/site/{name}") for name, path in sorted(site.items())]
    binds += _libraries(binaries, list(site.values()))
    for name, guest in (("kernels", "kernels"), ("sandbox.guest", "sandbox/guest")):
        binds.append((package_folder(f"nightlab.{name}"), f"/opt/nightlab/{guest}"))
    hidden = [f"{guest_stdlib}/{n}" for n in HIDDEN_OF_STDLIB if (stdlib / n).is_dir()]
    return Needs(tuple(binds), tuple(hidden))


def package_folder(name: str) -> Path:
    """The folder of one of our own packages, without importing it."""
    spec = util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise MissingError(f"the package {name} is not installed; reinstall nightlab")
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def _site_entries(packages: Iterable[str]) -> dict[str, Path]:
    """Top-level files and folders of the packages and of all they require."""
    entries: dict[str, Path] = {}
    seen: set[str] = set()
    waiting = list(packages)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in packages and name != "triton":
                raise MissingError(f"{name} is not installed; reinstall nightlab") from None
            continue
        for file in distribution.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__", "/"):
                entries[top] = Path(str(distribution.locate_file(top)))
        waiting += _required(distribution)
    return {name: path for name, path in entries.items() if path.exists()}


def _required(distribution: metadata.Distribution) -> list[str]:
    """Names it requires, extras left out; a marker for another platform names nothing installed."""
    wanted = [text for text in distribution.requires or [] if "extra ==" not in text]
    return [match[0] for text in wanted if (match := re.match(r"[A-Za-z0-9._-]+", text))]


def _shared_objects(site: dict[str, Path]) -> list[Path]:
    found = []
    for path in site.values():
        for parent, _, names in os.walk(path):
            found += [Path(parent, name) for name in names if ".so" in name]
    return found


def _libraries(binaries: Sequence[Path], site: Sequence[Path]) -> list[tuple[Path, str]]:
    """System libraries by soname below /opt/lib, and the loader at its own path."""
    try:
        done = subprocess.run(
            ["ldd", *map(str, binaries)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise MissingError("the tool ldd is not installed; it comes with the C library") from None
    inside = tuple(str(path.resolve()) for path in site)
    libraries: dict[str, Path] = {}
    for soname, found in re.findall(r"^\s*(\S+) => (/\S+) \(", done.stdout, re.MULTILINE):
        path = Path(found).resolve()
        if not str(path).startswith(inside):
            libraries.setdefault(soname, path)
    loaders = set(re.findall(r"^\s*(/\S*ld-\S+\.so\S*) \(", done.stdout, re.MULTILINE))
    return [(path, f"/opt/lib/{name}") for name, path in sorted(libraries.items())] + [
        (Path(loader).resolve(), loader) for loader in sorted(loaders)
    ]
