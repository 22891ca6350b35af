"""Files by their content: written once, named by their SHA-256, checked on every read.

A file becomes visible whole or not at all (temporary file, fsync, rename, fsync of the folder),
so that a crash or a full disk leaves at most a temporary file behind.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from nightlab.errors import LedgerError, UsageError, boundary
from nightlab.memory.records import Artifact

CHUNK = 1 << 20


class Artifacts:
    """A folder of files by content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put_bytes(self, content: bytes) -> Artifact:
        """Store bytes."""
        with self._incoming("bytes") as (target, name):
            target.write(content)
            name.append(hashlib.sha256(content).hexdigest())
        return Artifact(sha256=name[0], bytes=len(content))

    def put_file(self, path: Path) -> Artifact:
        """Store a copy of a plain file."""
        digest, size = hashlib.sha256(), 0
        with self._incoming(str(path)) as (target, name), path.open("rb") as source:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
                target.write(chunk)
            name.append(digest.hexdigest())
        return Artifact(sha256=name[0], bytes=size)

    def take_folder(self, folder: Path) -> dict[str, Artifact]:
        """Move a finished folder in: every plain file by its path within it; then it is gone."""
        found = {
            path.relative_to(folder).as_posix(): self.put_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }
        with boundary(LedgerError, f"removing {folder}"):
            shutil.rmtree(folder)
        return found

    def path(self, sha256: str) -> Path:
        """Where the content is kept. Raises UsageError when it is not here."""
        path = self._place(sha256)
        if not path.is_file():
            raise UsageError(f"artifact {sha256} is not in {self.folder}")
        return path

    def get(self, sha256: str) -> bytes:
        """The content. Raises LedgerError when it no longer has its hash."""
        path = self.path(sha256)
        with boundary(LedgerError, f"reading artifact {sha256}"):
            content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise LedgerError(f"artifact {path} is damaged: its content has another hash")
        return content

    def _place(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    @contextmanager
    def _incoming(self, what: str) -> Iterator[tuple[IO[bytes], list[str]]]:
        """A temporary file; the block fills it and appends its hash, then it takes its place."""
        name: list[str] = []
        with boundary(LedgerError, f"storing {what} in {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self.folder, prefix=".incoming-", delete=False) as target:
                try:
                    yield target.file, name
                    target.flush()
                    os.fsync(target.fileno())
                    self._settle(Path(target.name), self._place(name[0]))
                finally:
                    Path(target.name).unlink(missing_ok=True)

    @staticmethod
    def _settle(temporary: Path, place: Path) -> None:
        place.parent.mkdir(exist_ok=True)
        os.replace(temporary, place)
        for folder in (place.parent, place.parent.parent):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
