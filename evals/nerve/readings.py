"""Spectral readings: what one record says, checked before anything believes its form.

Records come from a trainer or an oracle that runs foreign code, so every field is checked for
type and range here; whether the numbers are *true* is another question
(:mod:`nightlab.evals.nerve.agreement`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from nightlab.errors import UsageError

Place = Literal["pre", "post", "out", "residual"]
MOST = 200_000
"""More records than any honest run leaves."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The spectrum of one feed-forward at one place and step, in scalars."""

    step: int
    """Updates behind the weights that were measured."""
    layer: int
    expert: int | None = None
    path: str = ""
    """Common part of its parameters' names."""
    place: Place
    n: int = 0
    """Tokens; 0 where nothing could be measured."""
    d: int = 0
    """Width."""
    entropy: float | None = None
    """Spectral entropy, nats."""
    pr: float | None = None
    """Participation ratio of the sample."""
    pr_corrected: float | None = None
    """The same without finite-sample bias; may leave [1, D] by noise."""
    eee: float | None = None
    """Eigenvalue early enrichment over all D directions."""
    js: float | None = None
    """Divergence from the pre spectrum; post only, as the gains are."""
    pr_gain: float | None = None
    pr_gain_corrected: float | None = None
    eee_diff: float | None = None
    flag: str | None = None
    """Why numbers are missing: constant, not finite, too few tokens."""

    @property
    def size(self) -> tuple[int, int]:
        """(N, D): spectra of different sizes are not comparable."""
        return self.n, self.d


_FIELDS = {each.name: each for each in fields(Reading)}
_NUMBERS = (
    "entropy",
    "pr",
    "pr_corrected",
    "eee",
    "js",
    "pr_gain",
    "pr_gain_corrected",
    "eee_diff",
)


def parse(records: object) -> tuple[Reading, ...]:
    """Readings from decoded JSON; UsageError where the form or a range is impossible."""
    if not isinstance(records, Sequence) or isinstance(records, (str, bytes)):
        raise UsageError("spectra: expected a list of records")
    if len(records) > MOST:
        raise UsageError(f"spectra: {len(records)} records are more than {MOST}")
    return tuple(_reading(record) for record in records)


def _reading(record: object) -> Reading:
    if not isinstance(record, Mapping) or not set(record) <= set(_FIELDS):
        raise UsageError("spectra: a record has fields that no reading has")
    if not {"step", "layer", "place"} <= set(record):
        raise UsageError("spectra: a record lacks its step, layer or place")
    expert = None if record.get("expert") is None else _whole(record, "expert")
    if record["place"] not in get_args(Place):
        raise UsageError(f"spectra: no such place: {record['place']!r}")
    for name in ("path", "flag"):
        if not isinstance(record.get(name, ""), str | None):
            raise UsageError(f"spectra: {name} is not text")
    numbers = {name: _number(name, record.get(name)) for name in _NUMBERS}
    blank = Reading(
        step=_whole(record, "step"),
        layer=_whole(record, "layer"),
        n=_whole(record, "n"),
        d=_whole(record, "d"),
        expert=expert,
        place=record["place"],
        path=str(record.get("path", ""))[:200],
        flag=record["flag"][:200] if record.get("flag") else None,
    )
    reading: Reading = replace(blank, **numbers)  # type: ignore[arg-type]
    _check_ranges(reading)
    return reading


def _whole(record: Mapping[str, object], name: str) -> int:
    value = record.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 40:
        raise UsageError(f"spectra: {name} is not a whole number: {value!r}")
    return value


def _number(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"spectra: {name} is not a finite number: {value!r}")
    return float(value)


def _check_ranges(reading: Reading) -> None:
    """Bounds that hold for every spectrum of N tokens in D directions."""
    rank = max(1, min(reading.n - 1, reading.d))
    bounds = {
        "entropy": (0.0, math.log(rank)),
        "pr": (1.0, float(rank)),
        "eee": (0.0, 1.0),
        "js": (0.0, math.log(2)),
    }
    for name, (low, high) in bounds.items():
        value = getattr(reading, name)
        if value is not None and not low - 1e-6 <= value <= high + 1e-6 * max(1.0, high):
            raise UsageError(f"spectra: {name} = {value:g} is outside [{low:g}, {high:g}]")


def comparable(ours: Iterable[Reading], theirs: Iterable[Reading]) -> None:
    """Refuse with UsageError to compare spectra whose (N, D) differ at any layer and place."""
    other: dict[tuple[int, int | None, str], set[tuple[int, int]]] = {}
    for reading in theirs:
        if reading.n:
            at = (reading.layer, reading.expert, reading.place)
            other.setdefault(at, set()).add(reading.size)
    for reading in ours:
        sizes = other.get((reading.layer, reading.expert, reading.place), set())
        if reading.n and sizes and reading.size not in sizes:
            raise UsageError(
                f"spectra of different size cannot be compared: layer {reading.layer} "
                f"{reading.place} has (N, D) = {reading.size} and {min(sizes)}; "
                "probe both with the same number of tokens, at the same width"
            )


def label(reading: Reading) -> str:
    """A name for where a reading was taken, unique within a step: ``3.1/post/h.3.experts.1``."""
    expert = "" if reading.expert is None else f".{reading.expert}"
    return f"{reading.layer}{expert}/{reading.place}/{reading.path}"
