"""Trusted code of tasks over byte-pair tokens: bits per byte of the raw text behind the tokens.

The log-probability of the token sequence is divided by the number of bytes it stands for. That is
an upper bound on the text's own code length, the same kind for every encoding, so vocabularies can
be compared with each other and with bytes. The text is tokenised here, on the host.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nightlab.evals import bits_per_byte, corpus, shards
from nightlab.evals.oracles import Oracles, Tokens
from nightlab.evals.task import Source, Splits, Task
from nightlab.vocabulary import Measurement


@dataclass(frozen=True)
class TokenBits:
    """A corpus in byte-pair tokens, scored by code length."""

    task: Task

    @property
    def sources(self) -> tuple[Source, ...]:
        """One stream of tokens, any window of which may be trained on."""
        return (Source(tokens="train.u16"),)

    @property
    def shortest(self) -> int:
        """A program reads windows of its own context."""
        return 0

    def prepare(self, home: Path) -> Splits:
        """The corpus in tokens. Raises MissingError where text or ``tokenizers`` is lacking."""
        text = corpus.prepare(self.task, home)
        return shards.prepare(text, self.task.vocabulary, home)[0]

    def score(self, split: Path, oracles: Oracles, rng: np.random.Generator) -> Measurement:
        """Bits per byte: bits of all tokens but the start, over the bytes they stand for."""
        tokens = shards.read(split).astype(np.int32)
        measured = bits_per_byte.score(
            tokens, oracles, self.task.max_context, rng, self.task.vocabulary
        )
        scale = (len(tokens) - 1) / shards.byte_count(split)
        bits = {name: scale * value for name, value in measured.metrics.items()}
        return replace(measured, metrics=bits)

    def passages(self, split: Path, rows: int, length: int, rng: np.random.Generator) -> Tokens:
        """Windows as they are scored."""
        return self.sample(split, rows, length, rng)

    def sample(self, split: Path, rows: int, context: int, rng: np.random.Generator) -> Tokens:
        """Windows at places that only the evaluator knows."""
        tokens = shards.read(split).astype(np.int32)
        starts = rng.integers(0, len(tokens) - context + 1, rows)
        windows_BT: Tokens = tokens[starts[:, None] + np.arange(context)]
        return windows_BT
