"""What answering costs, by the host's clock and by what the host sees a cell use.

Nothing here is what a program says of itself, but for the decode contract it declares and its
count of FLOPs, which is judged beside the CPU time that is seen. Times are medians over repeats,
less the shortest empty round trip through the same channel. The checker is metered, on
sequences like those that are scored; the reader, which saw none of it, then answers for the same in
other company. Who answers a meter fast and wrong disagrees with itself.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from nightlab.evals.oracles import (
    DiedError,
    Floats,
    Metered,
    Oracle,
    Oracles,
    RefusedError,
    Tokens,
    log_softmax,
    one,
)

REPEATS = 3
STEPS = 12
MEMORY_ROWS = 8
COMPANY = 8
"""Rows beside the metered ones when the reader answers."""
MEMORY_CONTEXTS = (512, 2048)
"""Growth of memory is read between these contexts, in ``MEMORY_ROWS`` rows each."""
RESOLUTION_BYTES = 256 << 10
"""What growth below cannot be told from the allocator's own."""
OWN_BYTES = 4 << 20
"""What a program may hold, beside three times its weights, that is not counted as its cache."""
COMPUTE_TOKENS = 1 << 13
"""Tokens of one reading whose CPU time is taken."""
COMPUTE_REPEATS = 4
ANSWER_VALUES = 16 << 20
"""Most logits of one such answer."""
COUNTED = frozenset({"flops_per_token", "train_tokens_per_s"})
"""Metrics that a program could miscount, which are judged beside ``CPU_METRIC``."""
CPU_METRIC = "cpu_us_per_token"
"""Microseconds of CPU time of one token of a forward pass, seen from outside."""
TOLERANCE = 5e-3
"""Largest difference in log-probability (nats) that rounding may explain between two processes."""
SAME_TOKENS = 0.9
"""Share of places where two processes of a program that approximates must say the same."""


SECONDS = {
    "kv_bytes_per_token": 3.0,
    "flops_per_token": 2.0,
    "train_tokens_per_s": 0.5,
    "prefill_ms": 2e-4,
    "decode_ms": 1e-4,
}
"""What a meter takes on one core, roughly: in all, or where it has a context, per token of it."""


def seconds(metric: str) -> float:
    """What it takes on one core to measure this beside scoring, roughly."""
    kind, _, length = metric.partition("@")
    return SECONDS.get(kind, 0.0) * (int(length) if length.isdigit() else 1)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained program, and how it is read."""

    oracles: Oracles
    vocabulary: int
    passages: Callable[[int, int], Tokens]
    """So many sequences of a length, (rows, length), that look like those that are scored."""
    context: int
    """Tokens of the context that it declares."""
    windowed: bool
    """Whether it is scored on windows of that context, and reads no more at once: what was before
    them is forgotten. Otherwise it reads whatever context it is given."""

    @property
    def decodes(self) -> bool:
        """Whether it is scored, and so metered, on its decode path."""
        return not self.windowed and self.oracles.checker.facts.get("decodes") is True

    @property
    def approximate(self) -> bool:
        """Whether it says that its decode path is not its forward pass."""
        return self.oracles.checker.facts.get("approximate") is True


def measure(
    subject: Subject, wanted: Collection[str], rng: np.random.Generator
) -> dict[str, float]:
    """The metrics of ``wanted`` that are meters' and that this program allows to be measured.

    Without the decode contract there is no cache to measure, a prefill is a forward pass over the
    context, and one more token is another one.

    Raises:
        DiedError: it cannot read such a context, or died.
        RefusedError: two processes disagree about what was asked while it was metered.
    """
    found: dict[str, float] = {}
    if "kv_bytes_per_token" in wanted and subject.decodes:
        found["kv_bytes_per_token"] = kv_bytes_per_token(subject)
    if COUNTED & set(wanted):
        found[CPU_METRIC] = cpu_us_per_token(subject)
    if "flops_per_token" in wanted:
        found["flops_per_token"] = flops_per_token(subject)
    for name in sorted(wanted):
        kind, _, length = name.partition("@")
        meter = {"prefill_ms": prefill_ms, "decode_ms": decode_ms}.get(kind)
        if meter is None:
            continue
        try:
            found[name] = meter(subject, int(length), rng)
        except DiedError as died:
            raise DiedError(f"{name} cannot be measured: {died}") from None
    return found


def kv_bytes_per_token(subject: Subject) -> float:
    """Growth of the cell's memory per cached token of one sequence, in bytes.

    Or, where that is more, all that the cell holds beside its idle memory, the program's weights
    and ``OWN_BYTES``, over the tokens it has read: what was taken early hides nothing. Never below
    ``RESOLUTION_BYTES`` over the tokens between the two contexts. What is left is used once more
    after each reading, so that nothing can be dropped for the reading alone.
    """
    checker = subject.oracles.checker
    assert isinstance(checker, Metered), "a cell, which has memory"
    readings = []
    short, long = MEMORY_CONTEXTS
    for context in (long, short, long):  # the first warms the allocator
        tokens = subject.passages(MEMORY_ROWS + COMPANY, context + 2)
        mine = tokens[:MEMORY_ROWS]
        said = [_ask(checker, "prefill", mine[:, :context])]
        said.append(_ask(checker, "step", mine[:, context]))
        _told(checker, "settle")
        readings.append(checker.memory_bytes())
        said.append(_ask(checker, "step", mine[:, context + 1]))
        _told(checker, "forget")
        if len(readings) > 1:
            again = _decoded(subject.oracles.reader, tokens, context)
            _compare(subject, said, [each[:MEMORY_ROWS] for each in again])
    growth = max(readings[2] - readings[1], RESOLUTION_BYTES) / (MEMORY_ROWS * (long - short))
    if checker.idle_bytes is None:
        return growth
    held = readings[2] - checker.idle_bytes - 3 * checker.weights_bytes - OWN_BYTES
    return max(growth, held / (MEMORY_ROWS * long))


def prefill_ms(subject: Subject, length: int, rng: np.random.Generator) -> float:
    """Milliseconds to read a context of one sequence."""
    if not subject.decodes:
        return _forward_ms(subject, length, REPEATS)
    rows = subject.passages(REPEATS, length)
    ways = [partial(_ask, subject.oracles.checker, "prefill", row[None]) for row in rows]
    spent, said = _timed(subject.oracles.checker, ways)
    again = _ask(subject.oracles.reader, "prefill", rows)
    one_row = int(rng.integers(REPEATS))
    _compare(subject, [said[one_row]], [again[one_row, None]])
    return spent


def decode_ms(subject: Subject, length: int, _: np.random.Generator) -> float:
    """Milliseconds of one more token of one sequence behind a context.

    Without a cache it is read again with the token, or as much of its end as a program reads.
    """
    if not subject.decodes:
        return _forward_ms(subject, length + 1, STEPS // 2)
    checker = subject.oracles.checker
    tokens = subject.passages(2, length + STEPS)
    first = _ask(checker, "prefill", tokens[:1, :length])
    places = range(length, length + STEPS)
    spent, said = _timed(checker, [partial(_ask, checker, "step", tokens[:1, t]) for t in places])
    _told(checker, "forget")
    again = _decoded(subject.oracles.reader, tokens, length)
    _compare(subject, [first, *said], [each[:1] for each in again])
    return spent


def _forward_ms(subject: Subject, length: int, repeats: int) -> float:
    """Milliseconds of a forward pass over one sequence, the last token's logits asked for."""
    size = min(length, subject.context) if subject.windowed else length
    rows = subject.passages(repeats, size)
    asked = partial(_ask, subject.oracles.checker, "logits", start=size - 1)
    spent, said = _timed(subject.oracles.checker, [partial(asked, row[None]) for row in rows])
    again = _ask(subject.oracles.reader, "logits", rows)
    _compare(subject, [each[:, -1] for each in said], [each[None, -1] for each in again])
    return spent


def cpu_us_per_token(subject: Subject) -> float:
    """Microseconds of CPU time of one token of a whole context that is read, seen from outside."""
    checker = subject.oracles.checker
    assert isinstance(checker, Metered), "a cell, whose CPU time is seen"
    many = min(COMPUTE_TOKENS, ANSWER_VALUES // subject.vocabulary)
    rows = subject.passages(max(1, many // subject.context), subject.context)
    what = "prefill" if subject.decodes else "logits"
    _ask(checker, what, rows)  # the first call of anything is dearer
    before = checker.cpu_seconds()
    said = [_ask(checker, what, rows) for _ in range(COMPUTE_REPEATS)]
    spent = checker.cpu_seconds() - before
    _compare(subject, said[-1:], [_ask(subject.oracles.reader, what, rows)])
    return 1e6 * spent / (COMPUTE_REPEATS * rows.size)


def flops_per_token(subject: Subject) -> float:
    """What torch counts in the program's own process, for one token of a context that is read."""
    rows = subject.passages(2, subject.context)
    answers = subject.oracles.checker.ask("flops", rows)
    if answers is None:
        raise DiedError("the oracle died or raised when its FLOPs were counted")
    counted = answers[0] if len(answers) == 1 else np.empty(0)
    if counted.shape != (1,) or counted.dtype != np.int64 or not counted[0] > 0:
        raise RefusedError(f"its FLOPs were counted as {counted}")
    return float(counted[0]) / rows.size


def _decoded(oracle: Oracle, tokens: Tokens, context: int) -> list[Floats]:
    """The logits (B, V) behind a context and behind each token that follows it."""
    said = [_ask(oracle, "prefill", tokens[:, :context])]
    return said + [_ask(oracle, "step", tokens[:, t]) for t in range(context, tokens.shape[1])]


def _compare(subject: Subject, said: Sequence[Floats], again: Sequence[Floats]) -> None:
    """Two processes agree about the same sequences, the one metered and the other not."""
    pairs = [(log_softmax(a), log_softmax(b)) for a, b in zip(said, again, strict=True)]
    if subject.decodes and subject.approximate:
        same = np.concatenate([(a.argmax(-1) == b.argmax(-1)).ravel() for a, b in pairs])
        agree = same.mean() >= SAME_TOKENS or (~same).sum() <= 1
    else:
        agree = all(_near(a, b) for a, b in pairs)
    if not agree:
        raise RefusedError(
            "answered otherwise while it was metered: a fresh process disagrees about the same rows"
        )


def _near(a: Floats, b: Floats) -> bool:
    """Equal within rounding wherever either gives the token at least one part in a thousand."""
    likely = np.maximum(a, b) > math.log(1e-3)
    return a.shape == b.shape and bool(np.abs(a - b)[likely].max(initial=0.0) < TOLERANCE)


def _timed(oracle: Oracle, ways: Sequence[Callable[[], Floats]]) -> tuple[float, list[Floats]]:
    """Median milliseconds of asking, less the shortest empty round trip, and the answers.

    Round trips stand between the questions; on a busy machine their median can be longer than a
    short question's.
    """
    trips, times, said = [], [], []
    for way in ways:
        started = time.perf_counter()
        _told(oracle, "nothing")
        asked = time.perf_counter()
        said.append(way())
        times.append(time.perf_counter() - asked)
        trips.append(asked - started)
    return max(0.0, 1000 * (median(times) - min(trips))), said


def _ask(oracle: Oracle, what: str, tokens: Tokens, **options: object) -> Floats:
    """The logits of an answer, (B, V) or (B, T, V); refuses what is none."""
    answers = oracle.ask(what, tokens, **options)
    if answers is None:
        size = f" of {tokens.shape[1]} tokens" if tokens.ndim == 2 else ""
        raise DiedError(f"the oracle died or raised when it was asked for {what}{size}")
    return one(answers, answers[0].shape if len(answers) == 1 else ())


def _told(oracle: Oracle, what: str) -> None:
    """Tell it something that has no answer but that it was done."""
    if oracle.ask(what) is None:
        raise DiedError(f"the oracle died or raised when it was told {what}")
