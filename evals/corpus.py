"""A byte corpus from source files on the host, split by file so that no file spans two splits."""

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nightlab.errors import MissingError
from nightlab.evals import own_corpus
from nightlab.evals.task import Splits, Task
from nightlab.vocabulary import Split

SEARCH_SHARE, HOLDOUT_SHARE = 0.06, 0.06
FORMAT = 1
"""Part of every corpus's folder name; raise it when the way it is built changes."""


def prepare(task: Task, home: Path) -> Splits:
    """Build the task's corpus under ``home/data`` unless it is there already.

    A task whose data names a ``corpus`` uses that one.

    Raises:
        UsageError: there is no corpus of that name.
        MissingError: too little source text is installed to fill the splits.
    """
    if "corpus" in task.data:
        return own_corpus.find(str(task.data["corpus"]), home).splits(home)
    packages: Sequence[str] = task.data["packages"]
    sources = list(_sources(packages))
    key = hashlib.sha256(json.dumps([FORMAT, dict(task.data)], sort_keys=True).encode())
    for name, content in sources:
        key.update(name.encode() + hashlib.sha256(content).digest())
    folder = home / "data" / task.name / key.hexdigest()[:16]
    if not folder.exists():
        texts = _split(sources, task.data)
        found = ", ".join(sorted({name.split("/")[0] for name, _ in sources}))
        origin = f"Python source of {found}"
        own_corpus.write(texts, folder, {"digest": own_corpus.digest_of(texts), "origin": origin})
    meta = json.loads((folder / "corpus.json").read_text())
    return Splits(
        train=folder / "train",
        search=folder / "search.bin",
        holdout=folder / "holdout.bin",
        digest=meta["digest"],
        origin=meta["origin"],
    )


def _sources(packages: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Every distinct source file of the packages, found without importing them."""
    seen: set[bytes] = set()
    for package in packages:
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(root).rglob("*.py")):
                content = path.read_bytes()
                digest = hashlib.sha256(content).digest()
                if len(content) >= 256 and digest not in seen:
                    seen.add(digest)
                    yield f"{package}/{path.relative_to(root)}", content


def _split(sources: Sequence[tuple[str, bytes]], sizes: Mapping[str, int]) -> dict[Split, bytes]:
    """Files go to splits by the hash of their names, and stay whole until the split is full."""
    parts: dict[Split, list[bytes]] = {split: [] for split in Split}
    for name, content in sorted(sources, key=lambda s: hashlib.sha256(s[0].encode()).digest()):
        place = int.from_bytes(hashlib.sha256(b"split" + name.encode()).digest()[:8]) / 2**64
        if place < SEARCH_SHARE:
            parts[Split.SEARCH].append(content)
        elif place < SEARCH_SHARE + HOLDOUT_SHARE:
            parts[Split.HOLDOUT].append(content)
        else:
            parts[Split.TRAIN].append(content)
    texts: dict[Split, bytes] = {}
    for split in Split:
        # One byte more than is scored: the first byte is only ever an input.
        size = sizes[f"{split}_bytes"] + 1
        texts[split] = b"".join(parts[split])[:size]
        if len(texts[split]) < (size if split is not Split.TRAIN else size // 4):
            raise MissingError(
                f"the {split} split has only {len(texts[split])} bytes of source text: install the "
                f"package with its dependencies (`make setup`) or list other packages in task.toml"
            )
    return texts
