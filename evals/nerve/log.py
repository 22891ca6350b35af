"""The spectra that a training run left: hostile bytes, read into reports or into a reason.

One line a report: ``{"step": ..., "loss": ..., "records": [...]}``. Everything in it is the
program's own word (:mod:`nightlab.evals.nerve.agreement` compares it with the oracle's).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nightlab.errors import UsageError
from nightlab.evals.nerve.readings import Reading, parse

MOST_LINES = 1000
MOST_LINE_BYTES = 64 << 10


@dataclass(frozen=True)
class Report:
    """The spectra of one step."""

    step: int
    """Updates behind the weights that were measured."""
    loss: float | None
    """Training loss of the batch that was watched, nats; None after the last update."""
    readings: tuple[Reading, ...]


@dataclass(frozen=True)
class Log:
    """All that one run left."""

    reports: tuple[Report, ...]
    """In order of steps, which only grow."""
    fault: str = ""
    """Why recording ended early, in words; untrusted text."""

    @property
    def readings(self) -> tuple[Reading, ...]:
        """Of all reports."""
        return tuple(reading for report in self.reports for reading in report.readings)


def read(content: bytes) -> Log:
    """The log in the bytes of ``spectra.jsonl``.

    Raises:
        UsageError: the form, a number or the order of steps is impossible.
    """
    lines = content.split(b"\n", MOST_LINES)
    if len(lines) > MOST_LINES or any(len(line) > MOST_LINE_BYTES for line in lines):
        raise UsageError(f"spectra: more than {MOST_LINES} lines, or a longer one than is written")
    reports: list[Report] = []
    fault = ""
    for line in lines:
        if not line:
            continue
        entry = _decoded(line)
        if set(entry) == {"fault"} and isinstance(entry["fault"], str):
            fault = fault or entry["fault"][:300]
            continue
        report = _report(entry)
        if reports and report.step <= reports[-1].step:
            raise UsageError(f"spectra: step {report.step} comes after step {reports[-1].step}")
        reports.append(report)
    return Log(tuple(reports), fault)


def _decoded(line: bytes) -> Mapping[str, object]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"spectra: a line that is not JSON: {error}") from None
    if not isinstance(entry, Mapping):
        raise UsageError("spectra: a line that is not an object")
    return entry


def _report(entry: Mapping[str, object]) -> Report:
    if set(entry) != {"step", "loss", "records"}:
        raise UsageError(f"spectra: a line with the fields {sorted(entry)[:5]}")
    readings = parse(entry["records"])
    step, loss = entry["step"], entry["loss"]
    if type(step) is not int or any(reading.step != step for reading in readings):
        raise UsageError(f"spectra: records of another step than their line's, {step!r}")
    if loss is not None and not (isinstance(loss, float | int) and abs(loss) < 1e9):
        raise UsageError(f"spectra: a loss of {loss!r}")
    return Report(step, None if loss is None else float(loss), readings)


def probes(batches: Sequence[object]) -> list[tuple[Reading, ...]]:
    """An oracle's records, one list for each probe batch; UsageError where they are impossible."""
    return [parse(records) for records in batches]
