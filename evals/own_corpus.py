"""Corpora that a person makes of any text files: ``home/data/own/NAME/DIGEST`` and a pointer.

A version is never changed or deleted: replacing a corpus writes another version and moves the
pointer ``current``, so that a campaign that began on the old one can still be resumed.

How text is split (`docs/data.md` says why):

- *by file*, where there are at least ``FEWEST_FILES`` distinct files and none holds more than
  ``LARGEST_SHARE`` of the bytes: files in the order of their contents' hashes fill the hold-out,
  then the search split, to ``SHARE`` of the bytes each; all others train;
- *by span* otherwise: the text is cut at line ends into ``SPANS`` spans of about equal length;
  in every 16, the 6th is searched, the 12th is held out, the others train.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nightlab.errors import UsageError
from nightlab.evals.task import Splits, Task
from nightlab.vocabulary import Split

FEWEST_FILES = 20
LARGEST_SHARE = 0.2
SHARE = 0.0625
SPANS, CYCLE, SEARCHED, HELD_OUT = 32, 16, 5, 11
LEAST_BYTES = 1 << 16
MOST_BYTES: Mapping[Split, int] = {Split.SEARCH: 1 << 16, Split.HOLDOUT: 1 << 17}
"""Scoring costs time with every trial; text beyond this is left out of these splits."""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
VERSION = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class OwnCorpus:
    """One version of a corpus as it is stored."""

    name: str
    digest: str
    """Hash over its three splits."""
    files: int
    """Distinct files it was made of."""
    duplicates: int
    """Files that were dropped because their text was there already."""
    empty: int
    """Files that were dropped because they had no text."""
    other: int
    """Files of the folders that were dropped because they are no UTF-8 text."""
    split: str
    """``by file`` or ``by span``."""
    train_bytes: int
    search_bytes: int
    holdout_bytes: int

    @property
    def pinned(self) -> str:
        """A name that will always mean this version."""
        return f"{self.name}@{self.digest}"

    def splits(self, home: Path) -> Splits:
        """Where its parts are."""
        folder = place(home, self.name) / self.digest
        return Splits(
            train=folder / "train",
            search=folder / "search.bin",
            holdout=folder / "holdout.bin",
            digest=self.digest,
            origin=f"the corpus {self.name}: {self.files} files, split {self.split}",
        )


def on(task: Task, corpus: str | None) -> Task:
    """The task on a corpus of that name; on its own data where there is no name."""
    return task if corpus is None else replace(task, data={**task.data, "corpus": corpus})


def place(home: Path, name: str) -> Path:
    """The folder of a corpus's versions."""
    return home / "data" / "own" / name


def add(name: str, paths: Sequence[Path], home: Path, *, instead: bool = False) -> OwnCorpus:
    """Make a corpus of text files; folders stand for every file below them that is not hidden.

    ``instead``: whether it may take the place of other text under the same name.

    Raises:
        UsageError: the name cannot be used or is taken, a file is no text, or there is too little.
    """
    _check_name(name)
    others: list[Path] = []
    found, dropped = _distinct(_texts(paths, others))
    return _store(name, found, {**dropped, "other": len(others)}, home, instead=instead)


def add_texts(name: str, texts: Iterable[bytes], home: Path, *, instead: bool = False) -> OwnCorpus:
    """As :func:`add`, of UTF-8 documents that are in no file."""
    _check_name(name)
    found, dropped = _distinct(texts)
    return _store(name, found, {**dropped, "other": 0}, home, instead=instead)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a corpus: use a-z, 0-9, - and _, at most 64")


def _store(
    name: str, texts: Sequence[bytes], dropped: Mapping[str, int], home: Path, *, instead: bool
) -> OwnCorpus:
    parts, how = split(texts)
    digest = digest_of(parts)
    made = OwnCorpus(
        name=name,
        digest=digest,
        files=len(texts),
        **dropped,
        split=how,
        train_bytes=len(parts[Split.TRAIN]),
        search_bytes=len(parts[Split.SEARCH]),
        holdout_bytes=len(parts[Split.HOLDOUT]),
    )
    folder = place(home, name)
    present = _current(folder)
    if present not in (None, digest) and not instead:
        raise UsageError(
            f"there is a corpus {name} already, of other text: choose another name, or --replace it"
        )
    write(parts, folder / digest, asdict(made))
    _point(folder, digest)
    return made


def find(called: str, home: Path) -> OwnCorpus:
    """A corpus by ``NAME``, in its current version, or by ``NAME@VERSION``.

    Raises:
        UsageError: there is none.
    """
    name, _, wanted = called.partition("@")
    folder = place(home, name)
    version = wanted or _current(folder) if NAME.fullmatch(name) else None
    if not VERSION.fullmatch(version or "") or not (folder / f"{version}/corpus.json").is_file():
        names = ", ".join(corpus.name for corpus in known(home)) or "none yet"
        raise UsageError(
            f"unknown corpus {called!r}; there are: {names}; make one with "
            f"`nightlab data add {name} FILES...`"
        )
    assert version is not None
    return OwnCorpus(**json.loads((folder / version / "corpus.json").read_text()))


def known(home: Path) -> list[OwnCorpus]:
    """Every corpus, in its current version."""
    folders = sorted(path.parent for path in place(home, "").glob("*/current"))
    return [find(folder.name, home) for folder in folders]


def split(texts: Sequence[bytes]) -> tuple[dict[Split, bytes], str]:
    """The three parts, and whether they were made ``by file`` or ``by span``; see the module.

    Raises:
        UsageError: there are fewer than ``LEAST_BYTES``.
    """
    total = sum(map(len, texts))
    if total < LEAST_BYTES:
        raise UsageError(
            f"{total} bytes of distinct text are too few: a corpus needs {LEAST_BYTES} or more, so "
            "that a difference on its search split means something"
        )
    many = len(texts) >= FEWEST_FILES and max(map(len, texts)) <= LARGEST_SHARE * total
    parts = _by_file(texts, total) if many else _by_span(b"".join(texts))
    for part, most in MOST_BYTES.items():
        # One byte more than is scored: the first byte is only ever an input.
        parts[part] = parts[part][: _whole(parts[part], most + 1)]
    return parts, "by file" if many else "by span"


def digest_of(parts: Mapping[Split, bytes]) -> str:
    """16 hex digits over all splits."""
    digest = hashlib.sha256()
    for part in Split:
        digest.update(hashlib.sha256(parts[part]).digest())
    return digest.hexdigest()[:16]


def write(parts: Mapping[Split, bytes], folder: Path, meta: Mapping[str, Any]) -> None:
    """Write beside the final place and rename, so that a crash leaves nothing half done."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        (draft / "train").mkdir()
        (draft / "train" / "train.bin").write_bytes(parts[Split.TRAIN])
        (draft / "search.bin").write_bytes(parts[Split.SEARCH])
        (draft / "holdout.bin").write_bytes(parts[Split.HOLDOUT])
        (draft / "corpus.json").write_text(json.dumps(meta))
        (draft / "train").chmod(0o755)
        with contextlib.suppress(FileExistsError):
            os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _texts(paths: Sequence[Path], others: list[Path]) -> Iterator[bytes]:
    """The files' texts; those below folders that are no text go to ``others``."""
    for path, named in _files(paths):
        try:
            yield _text(path)
        except UsageError:
            if named:
                raise
            others.append(path)


def _distinct(texts: Iterable[bytes]) -> tuple[list[bytes], dict[str, int]]:
    """Each text once, in the order they came, and how many were dropped and why."""
    found: dict[bytes, bytes] = {}
    dropped = {"duplicates": 0, "empty": 0}
    for text in texts:
        key = hashlib.sha256(text.strip()).digest()
        if not text.strip():
            dropped["empty"] += 1
        elif key in found:
            dropped["duplicates"] += 1
        else:
            found[key] = text if text.endswith(b"\n") else text + b"\n"
    if not found:
        raise UsageError("there is no text in it: everything is empty or is no text")
    return list(found.values()), dropped


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Files that were named (True), and those below folders (False); each once."""
    seen: set[Path] = set()
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p, path))
        if path.is_dir() and not inside:
            raise UsageError(f"there is no file in {path}")
        for file in inside if path.is_dir() else [path]:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file, not path.is_dir()


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _text(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if (at := content.find(b"\0")) >= 0:
        raise UsageError(f"{path} is binary, not text (a zero byte at {at}): leave it out")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text (byte {error.start}): convert it, as with "
            f"`iconv -f latin1 -t utf8`, or leave it out"
        ) from None
    return content


def _by_file(texts: Sequence[bytes], total: int) -> dict[Split, bytes]:
    parts: dict[Split, list[bytes]] = {part: [] for part in Split}
    sizes = dict.fromkeys(Split, 0)
    wanted = {part: min(SHARE * total, most + 1) for part, most in MOST_BYTES.items()}
    for text in sorted(texts, key=lambda text: hashlib.sha256(text).digest()):
        open_parts = [p for p in (Split.HOLDOUT, Split.SEARCH) if sizes[p] < wanted[p]]
        part = open_parts[0] if open_parts else Split.TRAIN
        parts[part].append(text)
        sizes[part] += len(text)
    return {part: b"".join(texts) for part, texts in parts.items()}


def _by_span(text: bytes) -> dict[Split, bytes]:
    parts: dict[Split, list[bytes]] = {part: [] for part in Split}
    places = {SEARCHED: Split.SEARCH, HELD_OUT: Split.HOLDOUT}
    cuts = [0, *(_line_end(text, len(text) * i // SPANS) for i in range(1, SPANS)), len(text)]
    for index, (start, end) in enumerate(itertools.pairwise(cuts)):
        parts[places.get(index % CYCLE, Split.TRAIN)].append(text[start:end])
    return {part: b"".join(texts) for part, texts in parts.items()}


def _line_end(text: bytes, near: int) -> int:
    """Just behind the next line end within 1 kB, else the place itself."""
    end = text.find(b"\n", near, near + 1024)
    return end + 1 if end >= 0 else _whole(text, near)


def _whole(text: bytes, end: int) -> int:
    """The last place up to ``end`` that cuts no character in two."""
    while end < len(text) and text[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _current(folder: Path) -> str | None:
    pointer = folder / "current"
    return pointer.read_text().strip() if pointer.is_file() else None


def _point(folder: Path, digest: str) -> None:
    draft = folder / f".current-{os.getpid()}"
    draft.write_text(digest)
    os.replace(draft, folder / "current")
