"""Asks an oracle's cell for spectra: on batches that its program has not been trained on, and on
the examples of the trainer's last report.

The cell runs foreign code: what it answers is checked for form and never trusted with a score.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightlab.errors import UsageError
from nightlab.evals.nerve import log
from nightlab.evals.nerve.agreement import disagreements, last
from nightlab.evals.nerve.readings import Reading, parse
from nightlab.sandbox.guest.wire import Message
from nightlab.sandbox.protocol import Cell
from nightlab.vocabulary import Limits

BATCHES = 3
LIMITS = Limits(cpu_seconds=60, wall_seconds=180)
ANSWER_BYTES = 64 << 20
LOG, PROBES = "spectra.jsonl", "probes.json"
DOUBTS = 3
"""Reasons that are told; the rest are counted."""

Tokens = NDArray[np.generic]


@dataclass(frozen=True)
class Probed:
    """What an oracle said, and whether the trainer's last report agrees."""

    batches: tuple[tuple[Reading, ...], ...]
    doubts: tuple[str, ...]


def check(cell: Cell, outputs: Path, secret: Sequence[Tokens], known_BT: Tokens) -> Probed:
    """Probe an open oracle on ``secret`` batches, and compare what the trainer left in ``outputs``
    with its answer on ``known_BT``, the examples of the trainer's last report.

    Leaves the oracle's records there too, as ``probes.json``.
    """
    answers = [ask(cell, batch, number, {}) for number, batch in enumerate(secret)]
    kept = [answer.header["records"] for answer in answers if answer and _readings(answer)]
    seen = tuple(parse(records) for records in kept)
    again: list[object] = []
    doubts = _doubts(cell, outputs / LOG, known_BT, again)
    if len(seen) < len(secret) and again:
        doubts.append("its spectra could not be recomputed on secret text")
    told = {"batches": kept, "again": again, "doubts": doubts}
    (outputs / PROBES).write_text(json.dumps(told))
    return Probed(seen, tuple(doubts))


def _doubts(cell: Cell, file: Path, known_BT: Tokens, again: list[object]) -> list[str]:
    """Reasons to doubt the log in ``file``; the oracle's records are appended to ``again``."""
    try:
        reported = log.read(file.read_bytes())
    except (OSError, UsageError) as reason:
        return [f"its spectra cannot be read: {reason}"]
    if reported.fault:
        return []
    step = reported.reports[-1].step if reported.reports else 0
    answer = ask(cell, known_BT, step, {})
    found = _readings(answer) if answer else ()
    if answer and found:
        again.append(answer.header["records"])
    reasons = disagreements(last(reported.readings), found)
    told = [f"spectra: {reason}" for reason in reasons[:DOUBTS]]
    more = len(reasons) - len(told)
    return [*told, f"spectra: {more} more disagreements"] if more else told


def ask(cell: Cell, tokens_BT: Tokens, batch: int, extra: Mapping[str, object]) -> Message | None:
    """Spectra of an open oracle on one batch, whose number stands as the step; None if it died."""
    request = Message({"do": "spectra", "batch": batch, **extra}, [tokens_BT])
    return cell.ask(request, LIMITS, answer_bytes=ANSWER_BYTES)


def _readings(answer: Message) -> tuple[Reading, ...]:
    """The readings of an answer; none where it is an error or no spectrum."""
    try:
        return parse(answer.header.get("records"))
    except UsageError:
        return ()
