"""Meters: what is read is what it costs, and who answers a meter otherwise is seen."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from nightlab.evals import meters
from nightlab.evals.meters import Subject
from nightlab.evals.oracles import Array, DiedError, Floats, Oracles, RefusedError, Tokens

VOCABULARY = 100
KEPT = meters.MEMORY_ROWS * (meters.MEMORY_CONTEXTS[1] + 1)
"""Tokens in the cache when the longer context is read."""


@dataclass
class Clerk:
    """An honest or lying oracle whose next token depends on all that it has read."""

    decodes: bool = True
    lie: str = ""
    pause: float = 0.0
    """Seconds of a token."""
    counted: Array = field(default_factory=lambda: np.array([4_000_000]))
    longest: int = 1 << 14
    approximate: bool = False
    bytes_per_token: int = 1000
    early: int = 0
    idle_bytes: int | None = 100 << 20
    weights_bytes: int = 300_000
    sums: Tokens = field(default_factory=lambda: np.zeros(0, np.int64))
    cached: int = 0
    lengths: list[int] = field(default_factory=list)
    spent: float = 0.0

    @property
    def facts(self) -> Mapping[str, object]:
        return {"context": 64, "decodes": self.decodes, "approximate": self.approximate}

    def memory_bytes(self) -> int:
        return (self.idle_bytes or 0) + max(self.early, self.cached * self.bytes_per_token)

    def cpu_seconds(self) -> float:
        return self.spent

    def ask(self, what: str, *arrays: Array, **options: object) -> Sequence[Array] | None:
        if what == "flops":
            return [self.counted]
        if what in ("nothing", "settle", "forget"):
            if what == "forget" or (what == "settle" and self.lie == "drops"):
                self.sums, self.cached = np.zeros_like(self.sums), 0
            return []
        tokens = arrays[0].astype(np.int64)
        self.lengths.append(tokens.shape[-1])
        if tokens.shape[-1] > self.longest:
            return None
        self.spent += 1e-6 * tokens.size
        hurries = self.lie == "hurries" and len(tokens) == 1
        time.sleep(0.0 if hurries else self.pause)
        if what == "logits":
            said = logits(np.cumsum(tokens, axis=1))[:, int(str(options.get("start", 0))) :]
        else:
            self.sums = tokens.sum(1) if what == "prefill" else self.sums + tokens
            self.cached = tokens.size if what == "prefill" else self.cached + len(tokens)
            said = logits(self.sums)
        return [np.zeros_like(said) if hurries else said]


def logits(sums: Tokens) -> Floats:
    """Of a token that depends on a sum."""
    said: Floats = (10 * np.eye(VOCABULARY, dtype=np.float32))[sums % VOCABULARY]
    return said


def subject(*, windowed: bool = False, **traits: object) -> Subject:
    rng = np.random.default_rng(0)
    reader, checker = (Clerk(**traits) for _ in range(2))  # type: ignore[arg-type]
    return Subject(
        oracles=Oracles(reader=reader, checker=checker),
        vocabulary=VOCABULARY,
        passages=lambda rows, length: rng.integers(0, VOCABULARY, (rows, length)),
        context=64,
        windowed=windowed,
    )


def measured(*wanted: str, windowed: bool = False, **traits: object) -> dict[str, float]:
    return meters.measure(subject(windowed=windowed, **traits), wanted, np.random.default_rng(0))


def kv(**traits: object) -> float:
    return measured("kv_bytes_per_token", **traits)["kv_bytes_per_token"]  # type: ignore[arg-type]


def test_the_cache_is_the_growth_of_memory_seen_from_outside() -> None:
    assert kv(bytes_per_token=2000) == pytest.approx(2000, rel=0.02)
    assert kv(bytes_per_token=500) == pytest.approx(500, rel=0.02)


def test_memory_taken_early_hides_nothing() -> None:
    assert kv(bytes_per_token=2000, early=KEPT * 2000 + (8 << 20)) > 2000


def test_no_cache_is_smaller_than_the_meter_can_see() -> None:
    short, long = meters.MEMORY_CONTEXTS
    smallest = meters.RESOLUTION_BYTES / (meters.MEMORY_ROWS * (long - short))
    assert kv(bytes_per_token=0) == smallest


def test_a_cache_that_is_dropped_for_the_reading_alone_is_seen() -> None:
    with pytest.raises(RefusedError, match="while it was metered"):
        kv(lie="drops")


@pytest.mark.parametrize("metric", ["decode_ms@512", "prefill_ms@512"])
@pytest.mark.parametrize("decodes", [True, False])
def test_who_answers_a_meter_fast_and_wrong_is_seen(metric: str, decodes: bool) -> None:
    honest = measured(metric, decodes=decodes, pause=0.004)
    assert honest[metric] >= 3.0
    with pytest.raises(RefusedError, match="while it was metered"):
        measured(metric, decodes=decodes, pause=0.004, lie="hurries")


def test_an_approximation_may_differ_a_little_and_not_everywhere() -> None:
    with pytest.raises(RefusedError):
        measured("decode_ms@512", approximate=True, lie="hurries")
    assert measured("decode_ms@512", approximate=True)


@pytest.mark.parametrize(("windowed", "read"), [(True, 64), (False, 4097)])
def test_without_a_cache_a_token_costs_a_pass_over_what_a_program_reads(
    windowed: bool, read: int
) -> None:
    metered = subject(windowed=windowed, decodes=False)
    meters.decode_ms(metered, 4096, np.random.default_rng(0))
    assert set(metered.oracles.checker.lengths) == {read}  # type: ignore[attr-defined]


def test_a_decode_path_counts_only_where_programs_are_scored_on_it() -> None:
    metered = subject(windowed=True, decodes=True)
    meters.decode_ms(metered, 4096, np.random.default_rng(0))
    assert set(metered.oracles.checker.lengths) == {64}  # type: ignore[attr-defined]


def test_a_context_that_cannot_be_read_is_named() -> None:
    with pytest.raises(DiedError, match=r"decode_ms@4096 cannot be measured.*prefill of 4096"):
        measured("decode_ms@4096", longest=2048)


def test_flops_and_cpu_time_are_of_one_token() -> None:
    found = measured("flops_per_token")
    assert found["flops_per_token"] == 4e6 / (2 * 64)
    assert found[meters.CPU_METRIC] == pytest.approx(1.0)


@pytest.mark.parametrize("counted", [[], [-1], [0], [1, 2], [1.5]])
def test_what_is_no_count_of_flops_is_refused(counted: list[float]) -> None:
    with pytest.raises(RefusedError, match="FLOPs"):
        measured("flops_per_token", counted=np.array(counted))


def test_nothing_is_metered_that_nobody_asked_for() -> None:
    metered = subject()
    assert meters.measure(metered, {"accuracy", "params"}, np.random.default_rng(0)) == {}
    assert metered.oracles.checker.lengths == []  # type: ignore[attr-defined]
