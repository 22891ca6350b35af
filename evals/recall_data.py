"""Generated recall problems: links hidden in filler, then questions about them.

A row is a context of C tokens and a block of Q question tokens. A *chain* is four distinct symbols
a b c d, whose links (a b), (b c), (c d) stand somewhere in the context, each as two neighbouring
tokens. Some chains are asked link by link, some over two hops, some from end to end, where each
answer is the key of the next::

    ASK a  b        TWO a  c        CHAIN a  b c d

Symbols are 0..63, filler 64..95. No question repeats what an earlier one gave away.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SYMBOLS, FILLERS, LINKS = 64, 32, 3
START, ASK, TWO, CHAIN = range(SYMBOLS + FILLERS, SYMBOLS + FILLERS + 4)
VOCABULARY = CHAIN + 1

Rows = NDArray[np.uint8]


@dataclass(frozen=True)
class Shape:
    """Sizes of a row."""

    context: int
    """Tokens before the first question."""
    chains: int
    """At least 3 and at most 16; four symbols each."""

    @property
    def kinds(self) -> tuple[int, int, int]:
        """Chains asked link by link, over two hops, and from end to end."""
        twos, ends = round(self.chains / 3), max(1, self.chains // 4)
        return self.chains - twos - ends, twos, ends

    @property
    def questions(self) -> int:
        """Tokens of the question block."""
        singles, twos, ends = self.kinds
        return 3 * LINKS * singles + 3 * 2 * twos + (2 + LINKS) * ends

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.context + self.questions


def shape_of(length: int) -> Shape:
    """The shape of a training row of so many tokens: few chains in a short one."""
    chains = 3 if length < 96 else 4 if length < 192 else 8
    return Shape(length - Shape(0, chains).questions, chains)


def rows(shape: Shape, count: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Tokens (count, length) and which of them are answers, as ones and zeros of that shape."""
    order = rng.permuted(np.tile(np.arange(SYMBOLS), (count, 1)), axis=1)
    chains = order[:, : 4 * shape.chains].reshape(count, shape.chains, 4)
    tokens = np.empty((count, shape.length), np.uint8)
    answers = np.zeros((count, shape.length), np.uint8)
    tokens[:, : shape.context] = _contexts(chains, shape.context, rng)
    for row in range(count):
        block, told = _questions(chains[row], shape, rng)
        tokens[row, shape.context :] = block
        answers[row, shape.context :] = told
    return tokens, answers


def _contexts(
    chains: NDArray[np.int64], length: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Links at random places, in random order, in filler behind START."""
    count = len(chains)
    links = np.stack([chains[:, :, :-1], chains[:, :, 1:]], axis=-1).reshape(count, -1, 2)
    order = rng.random(links.shape[:2]).argsort(axis=1)
    links = np.take_along_axis(links, order[..., None], axis=1)
    many = links.shape[1]
    # Places among the gaps left when each link counts as one token: no overlap, any distance.
    slots = rng.random((count, length - 1 - many)).argsort(axis=1)[:, :many]
    place = np.sort(slots, axis=1) + np.arange(many) + 1
    out = rng.integers(SYMBOLS, SYMBOLS + FILLERS, (count, length))
    out[:, 0] = START
    np.put_along_axis(out, place, links[..., 0], axis=1)
    np.put_along_axis(out, place + 1, links[..., 1], axis=1)
    return out


def _questions(
    chains: NDArray[np.int64], shape: Shape, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """One row's question block in random order, and which of its tokens are answers."""
    singles, twos, _ = shape.kinds
    asked: list[tuple[list[int], int]] = []
    for number, chain in enumerate(chains.tolist()):
        a, b, c, d = chain
        if number < singles:
            asked += [([ASK, key, value], 1) for key, value in ((a, b), (b, c), (c, d))]
        elif number < singles + twos:
            asked += [([TWO, a, c], 1), ([TWO, b, d], 1)]
        else:
            asked.append(([CHAIN, a, b, c, d], LINKS))
    block: list[int] = []
    told: list[int] = []
    for index in rng.permutation(len(asked)):
        tokens, many = asked[index]
        block += tokens
        told += [0] * (len(tokens) - many) + [1] * many
    return block, told
