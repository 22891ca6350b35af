"""Token shards: a byte corpus in byte-pair tokens, built once for each corpus and vocabulary.

The encoding is learned from the train split alone. Each split begins with the start token, so that
every byte of its text is scored; how many bytes that is, is stored beside the tokens, and bits per
byte are counted on it, which makes encodings comparable.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nightlab.errors import UsageError
from nightlab.evals.bpe import LARGEST_VOCABULARY, Bpe
from nightlab.evals.task import Splits
from nightlab.vocabulary import Split

FORMAT = 1
"""Part of every folder's name; raise it when the way shards are built changes."""
FEWEST_TOKENS = 257
"""The start and one for each byte."""


@dataclass(frozen=True, kw_only=True)
class Shards:
    """What was prepared."""

    digest: str
    """Hash over the tokens of all splits."""
    origin: str
    vocabulary: int
    """Tokens that the encoding really has; a small text fills no large vocabulary."""
    tokens: dict[str, int]
    """By split, the start not counted."""
    bytes: dict[str, int]
    """By split: what the tokens stand for."""

    def document(self) -> dict[str, Any]:
        """As it is stored, of JSON's own types."""
        return asdict(self)


def prepare(
    corpus: Splits, vocabulary: int, home: Path, say: Callable[[str], None] = lambda _: None
) -> tuple[Splits, Shards]:
    """The corpus in tokens, under ``home/data/shards``; built unless it is there.

    Raises:
        UsageError: no such vocabulary can be stored.
        MissingError: ``tokenizers`` is not installed.
    """
    if not FEWEST_TOKENS <= vocabulary <= LARGEST_VOCABULARY:
        raise UsageError(
            f"a vocabulary of {vocabulary} cannot be stored: choose {FEWEST_TOKENS} to "
            f"{LARGEST_VOCABULARY} tokens"
        )
    key = hashlib.sha256(json.dumps([FORMAT, corpus.digest, vocabulary]).encode())
    folder = home / "data" / "shards" / key.hexdigest()[:16]
    if not folder.exists():
        _build(corpus, vocabulary, folder, say)
    made = Shards(**json.loads((folder / "shards.json").read_text()))
    splits = Splits(
        train=folder / "train",
        search=folder / "search.u16",
        holdout=folder / "holdout.u16",
        digest=made.digest,
        origin=made.origin,
    )
    return splits, made


def _build(corpus: Splits, vocabulary: int, folder: Path, say: Callable[[str], None]) -> None:
    texts = {
        Split.TRAIN: _text(corpus.train / "train.bin"),
        Split.SEARCH: _text(corpus.search),
        Split.HOLDOUT: _text(corpus.holdout),
    }
    say(f"learning {vocabulary} tokens from {len(texts[Split.TRAIN]) / 1e6:.1f} MB of text")
    bpe = Bpe.train(texts[Split.TRAIN], vocabulary)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        (draft / "train").mkdir()
        (draft / "train").chmod(0o755)
        _encode(bpe, texts, draft, corpus.origin, say)
        os.rename(draft, folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _encode(
    bpe: Bpe, texts: dict[Split, bytes], folder: Path, origin: str, say: Callable[[str], None]
) -> None:
    sizes = bpe.bytes_per_token()
    digest = hashlib.sha256()
    tokens, counts = {}, {}
    for split, text in texts.items():
        say(f"encoding the {split} split")
        encoded = bpe.encode(text)
        if int(sizes[encoded].sum()) != len(text):
            raise AssertionError(f"the tokens of the {split} split do not stand for its bytes")
        name = "train/train.u16" if split is Split.TRAIN else f"{split}.u16"
        encoded.astype("<u2").tofile(folder / name)
        digest.update(hashlib.sha256(encoded.tobytes()).digest())
        tokens[str(split)], counts[str(split)] = len(encoded) - 1, len(text)
    bpe.save(folder / "tokenizer.json")
    made = Shards(
        digest=digest.hexdigest()[:16],
        origin=f"{origin}, in {bpe.vocabulary} byte-pair tokens",
        vocabulary=bpe.vocabulary,
        tokens=tokens,
        bytes=counts,
    )
    (folder / "shards.json").write_text(json.dumps(made.document()))


def _text(file: Path) -> bytes:
    """A split without what is no UTF-8: where a split is cut off, a character may be cut in two."""
    return file.read_bytes().decode(errors="ignore").encode()


def byte_count(tokens: Path) -> int:
    """Bytes that a split's tokens stand for, the start token being none."""
    made = json.loads((tokens.parent / "shards.json").read_text())
    return int(made["bytes"][tokens.stem])


def read(tokens: Path) -> "np.ndarray[tuple[int], np.dtype[np.uint16]]":
    """A split's tokens, the start first: (T,)."""
    return np.fromfile(tokens, dtype="<u2")
