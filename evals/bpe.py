"""Byte-pair encoding: the only module that knows ``tokenizers``.

A byte-level BPE (Sennrich et al. 2016; bytes as in Radford et al. 2019), so that every text can be
encoded and every token stands for a known number of bytes. Token 0 is kept for the start of a text
and stands for none; the library's ids follow it.
"""

import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nightlab.errors import MissingError

Tokens = NDArray[np.uint16]
START = 0
LARGEST_VOCABULARY = 1 << 16
CHUNK_BYTES = 1 << 16
"""Text is encoded in pieces of about this size, cut behind line ends."""
LEARNED_BYTES = 6_000_000
"""Of a longer text, evenly spaced pieces of about so many bytes together are learned from."""
BATCH = 16


class Bpe:
    """A trained encoding."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.vocabulary: int = tokenizer.get_vocab_size() + 1
        """Number of tokens, the start included."""

    @classmethod
    def train(cls, text: bytes, vocabulary: int) -> Self:
        """Learn at most ``vocabulary`` tokens from UTF-8 text.

        Raises:
            MissingError: the library is not installed.
        """
        library = _library()
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocabulary - 1,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        every = max(1, round(len(text) / LEARNED_BYTES))
        tokenizer.train_from_iterator(itertools.islice(_chunks(text), 0, None, every), trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, file: Path) -> Self:
        """A stored encoding. Raises MissingError where the library is not installed."""
        return cls(_library().Tokenizer.from_file(str(file)))

    def save(self, file: Path) -> None:
        """Store it in the library's own JSON form."""
        self._tokenizer.save(str(file))

    def encode(self, text: bytes) -> Tokens:
        """The start and then the tokens of UTF-8 text: (T,) of uint16."""
        found = [np.array([START], dtype=np.uint16)]
        chunks = _chunks(text)
        while batch := list(itertools.islice(chunks, BATCH)):
            for piece in self._tokenizer.encode_batch_fast(batch):
                found.append(np.array(piece.ids, dtype=np.uint16) + 1)
        return np.concatenate(found)

    def bytes_per_token(self) -> NDArray[np.int64]:
        """How many bytes of text each token stands for, by its id: (vocabulary,)."""
        sizes = np.zeros(self.vocabulary, dtype=np.int64)
        for token, number in self._tokenizer.get_vocab().items():
            sizes[number + 1] = len(token)  # one letter of the library's alphabet for each byte
        return sizes


def _chunks(text: bytes) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find(b"\n", start + CHUNK_BYTES) + 1 or len(text)
        yield text[start:end].decode()
        start = end


def _library() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError:
        raise MissingError(
            "byte-pair encoding needs the tokenizers library: pip install tokenizers"
        ) from None
