"""What answering costs, by the host's clock and the memory that the host sees a cell use.

Nothing here is what a program says of itself, but for the decode contract it declares. Times are
medians over repeats, less the median of an empty round trip through the same channel.
"""

import time
from collections.abc import Callable, Collection
from statistics import median

import numpy as np

from nightlab.evals.oracles import DiedError, Metered, Oracle, Tokens, one

REPEATS = 3
STEPS = 12
MEMORY_ROWS = 8
MEMORY_CONTEXTS = (256, 1280)
"""Growth of memory is read between these contexts, in ``MEMORY_ROWS`` rows each."""
RESOLUTION_BYTES = 256 << 10
"""What growth below cannot be told from the allocator's own."""
OWN_BYTES = 4 << 20
"""What a program may hold, beside three times its weights, that is not counted as its cache."""


def decoding(
    oracle: Oracle, vocabulary: int, wanted: Collection[str], rng: np.random.Generator
) -> dict[str, float]:
    """The metrics of ``wanted`` that this program allows to be measured.

    Without the decode contract a prefill is a whole row, and there is no cache to measure.
    """
    found: dict[str, float] = {}
    decodes = oracle.facts.get("decodes") is True
    try:
        if decodes and "kv_bytes_per_token" in wanted and isinstance(oracle, Metered):
            found["kv_bytes_per_token"] = kv_bytes_per_token(oracle, vocabulary, rng)
        for name in sorted(wanted):
            kind, _, length = name.partition("@")
            if kind == "prefill_ms":
                found[name] = prefill_ms(oracle, vocabulary, int(length), rng)
            elif kind == "decode_ms" and decodes:
                found[name] = decode_ms(oracle, vocabulary, int(length), rng)
    except DiedError:
        return found
    return found


def kv_bytes_per_token(oracle: Metered, vocabulary: int, rng: np.random.Generator) -> float:
    """Growth of the cell's memory per cached token of one sequence, in bytes.

    Or, where that is more, all that the cell holds beside its idle memory, the program's weights
    and ``OWN_BYTES``, over the tokens it has read: what was taken early hides nothing. Never below
    ``RESOLUTION_BYTES`` over the tokens between the two contexts.
    """
    readings = []
    for context in (MEMORY_CONTEXTS[1], *MEMORY_CONTEXTS):  # the first warms the allocator
        tokens = _tokens(vocabulary, MEMORY_ROWS, context + 1, rng)
        _ask(oracle, "prefill", tokens[:, :context])
        _ask(oracle, "step", tokens[:, context])
        _ask(oracle, "settle")
        readings.append(oracle.memory_bytes())
        _ask(oracle, "forget")
    short, long = MEMORY_CONTEXTS
    growth = max(readings[2] - readings[1], RESOLUTION_BYTES) / (MEMORY_ROWS * (long - short))
    if oracle.idle_bytes is None:
        return growth
    held = readings[2] - oracle.idle_bytes - 3 * oracle.weights_bytes - OWN_BYTES
    return max(growth, held / (MEMORY_ROWS * long))


def prefill_ms(oracle: Oracle, vocabulary: int, length: int, rng: np.random.Generator) -> float:
    """Milliseconds to read a context of one sequence."""
    what = "prefill" if oracle.facts.get("decodes") is True else "logits"
    options = {} if what == "prefill" else {"start": length - 1}

    def once() -> None:
        _ask(oracle, what, _tokens(vocabulary, 1, length, rng), **options)

    return _milliseconds(oracle, once, REPEATS)


def decode_ms(oracle: Oracle, vocabulary: int, length: int, rng: np.random.Generator) -> float:
    """Milliseconds of one more token of one sequence behind a context."""
    _ask(oracle, "prefill", _tokens(vocabulary, 1, length, rng))

    def once() -> None:
        _ask(oracle, "step", _tokens(vocabulary, 1, 1, rng)[:, 0])

    spent = _milliseconds(oracle, once, STEPS)
    _ask(oracle, "forget")
    return spent


def _milliseconds(oracle: Oracle, once: Callable[[], None], repeats: int) -> float:
    trip = median(_timed(lambda: _ask(oracle, "nothing")) for _ in range(2 * repeats))
    spent = median(_timed(once) for _ in range(repeats))
    return max(0.0, 1000 * (spent - trip))


def _timed(once: Callable[[], None]) -> float:
    started = time.perf_counter()
    once()
    return time.perf_counter() - started


def _ask(oracle: Oracle, what: str, *arrays: Tokens, **options: object) -> None:
    """Ask, and refuse what is no answer."""
    answers = oracle.ask(what, *arrays, **options)
    if answers is None:
        raise DiedError(f"the oracle died or raised when it was asked to {what}")
    if what in ("prefill", "step"):
        one(answers, answers[0].shape if len(answers) == 1 else ())


def _tokens(vocabulary: int, rows: int, length: int, rng: np.random.Generator) -> Tokens:
    """Tokens that nobody has seen: a program cannot know the answer beforehand."""
    dtype = np.uint8 if vocabulary <= 256 else np.int32
    drawn: Tokens = rng.integers(0, vocabulary, (rows, length)).astype(dtype)
    return drawn
