"""What goes into the trainer image: our two packages, wheels locked by hash, one Dockerfile.

The hash of our own content is the image's label: a tier runs an image of exactly the code it was
started from, and says to build it where there is none.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import IO

from nightlab.errors import MissingError, UsageError
from nightlab.sandbox.needs import PACKAGES, package_folder

CONTENT_LABEL = "content-hash"
LOCK_LABEL = "lock-hash"
BASE_LABEL = "base"
VARIANT_LABEL = "variant"
SUFFIXES = (".py", ".toml", ".json")


@dataclass(frozen=True)
class Recipe:
    """What an image is built from."""

    base: str
    wheelhouse: Path
    cuda: bool

    @property
    def variant(self) -> str:
        return "cuda" if self.cuda else "cpu"


def default_base(cuda: bool) -> str:
    """A public Python of this interpreter's version; with a compiler, which Triton needs, for CUDA.

    The CUDA libraries come with torch's own wheels and the driver with the container toolkit, so
    no CUDA base is needed; the PyTorch bases carry other packages beside torch.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"python:{version}-bookworm" if cuda else f"python:{version}-slim-bookworm"


def dockerfile() -> bytes:
    return (resources.files("nightlab.sandbox") / "Dockerfile").read_bytes()


def own_files() -> Iterator[tuple[str, bytes]]:
    """Our part of the context: name in it and content, in a fixed order."""
    yield "Dockerfile", dockerfile()
    for package, target in (("kernels", "kernels"), ("sandbox.guest", "sandbox/guest")):
        folder = package_folder(f"nightlab.{package}")
        for path in sorted(folder.rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield f"nightlab/{target}/{path.relative_to(folder).as_posix()}", path.read_bytes()


def content_hash() -> str:
    """64 hex digits that change with any file of ours in the image."""
    digest = hashlib.sha256()
    for name, content in own_files():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def fetch_wheels(folder: Path) -> None:
    """Download wheels of what is installed here, from wherever pip is set up to look.

    Raises:
        MissingError: pip cannot get them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f"{name}=={metadata.version(name)}" for name in PACKAGES if _installed(name)]
    line = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"]
    done = subprocess.run(
        [*line, "--dest", str(folder), *wanted, "pip"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MissingError(
            f"pip cannot download the wheels: {done.stderr.strip()[-500:]}; "
            "bring them with --wheelhouse DIR"
        )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def lock(wheelhouse: Path) -> str:
    """One pinned, hashed requirement for every wheel but pip's, which only installs.

    Raises:
        UsageError: the folder lacks a wheel that is needed.
    """
    wheels = sorted(wheelhouse.glob("*.whl"))
    names = {_name(wheel) for wheel in wheels}
    if absent := {"pip", "torch", "numpy", "safetensors"} - names:
        raise UsageError(f"no wheel of {', '.join(sorted(absent))} in {wheelhouse}")
    lines = []
    for wheel in wheels:
        if _name(wheel) != "pip":
            with wheel.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{_name(wheel)}=={wheel.name.split('-')[1]} --hash=sha256:{digest}")
    return "\n".join(lines) + "\n"


def _name(wheel: Path) -> str:
    return wheel.name.split("-")[0].replace("_", "-").lower()


def write_context(recipe: Recipe, file: IO[bytes]) -> dict[str, str]:
    """Write the build context as an uncompressed tar; returns the image's labels."""
    locked = lock(recipe.wheelhouse).encode()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in [*own_files(), ("wheels/lock.txt", locked)]:
            _add(tar, name, io.BytesIO(content), len(content))
        for wheel in sorted(recipe.wheelhouse.glob("*.whl")):
            with wheel.open("rb") as source:
                _add(tar, f"wheels/{wheel.name}", source, wheel.stat().st_size)
    return {
        CONTENT_LABEL: content_hash(),
        LOCK_LABEL: hashlib.sha256(locked).hexdigest(),
        VARIANT_LABEL: recipe.variant,
    }


def _add(tar: tarfile.TarFile, name: str, source: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    tar.addfile(member, source)
