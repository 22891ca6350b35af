"""Hostile and honest programs side by side: every hostile one ends as it must, and every honest
one scores what it scores alone.

The honest program learns for a fixed number of steps, well within its CPU seconds, and then stands
still: its score shows whether anybody touched its data, its memory or its weights, and not how
fast the machine was meanwhile. What the crowd costs in speed is said beside it.
"""

import json
import secrets
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from nightlab.errors import SandboxError
from nightlab.sandbox import remains
from nightlab.sandbox.abuse import CASES
from nightlab.sandbox.abuse.case import HONEST, Case
from nightlab.sandbox.choose import choose
from nightlab.sandbox.guest.wire import Message
from nightlab.sandbox.protocol import Cell
from nightlab.sandbox.selftest import (
    EXPECTED_FILES,
    HONEST_LIMITS,
    Bench,
    Judge,
    Row,
    Table,
    Tokens,
    leftovers,
    nothing_left,
)
from nightlab.vocabulary import Limits, Tier

HOSTILE = (
    "fork bomb", "heap bomb", "disk fill", "log flood", "spins to the deadline", "inode fill",
    "double fork, own session, deaf to SIGTERM", "short-lived children hide their CPU time",
)  # fmt: skip
WALL_SECONDS = 90.0
"""Fifty cells share few cores: only CPU time may end the busy ones."""
HONEST_STEPS = 100
HONEST_SECONDS = 1.0
"""CPU seconds to do them in, several times what they take."""
ALONE = 4
ROUNDING_BITS = 1e-4
STEADY = f"""
from honest import *
taken = 0
def schedule(progress, recipe):
    global taken
    taken += 1
    return 1.0 if taken <= {HONEST_STEPS} else 0.0
"""


def run(
    tier: Tier,
    judge: Judge,
    hostile: int = 40,
    honest: int = 10,
    hear: Callable[[str], None] = lambda _: None,
) -> Table:
    """Open all cells, let all of them go at once, and compare."""
    started, before = time.monotonic(), remains.of_this_process(tier)
    bench = Bench(choose(tier).sandbox, judge)
    try:
        alone = [_honest(bench, bench.sandbox.open(bench.room())) for _ in range(ALONE)]
        floor = _Floor.of(bench, alone)
        hear(f"{tier}: alone: {floor}")
        rows = _together(bench, hostile, honest, floor)
    finally:
        bench.close()
    rows.append(nothing_left(tier, before))
    return Table(tier=tier, rows=rows, seconds=time.monotonic() - started)


def _together(bench: Bench, hostile: int, honest: int, floor: "_Floor") -> list[Row]:
    cases = {case.name: case for case in CASES}
    chosen = [cases[HOSTILE[number % len(HOSTILE)]] for number in range(hostile)]
    rooms = [bench.room(case) for case in chosen] + [bench.room()] * honest
    with ThreadPoolExecutor(4) as few:
        cells = list(few.map(bench.sandbox.open, rooms))
    with ThreadPoolExecutor(len(cells)) as many:
        bad = [
            many.submit(_hostile, bench, c, case) for c, case in zip(cells, chosen, strict=False)
        ]
        good = [many.submit(_honest, bench, cell) for cell in cells[hostile:]]
        rows = [future.result() for future in bad]
        trained = [future.result() for future in good]
    return rows + [_compare(bench, entry, floor) for entry in trained]


def _hostile(bench: Bench, cell: Cell, case: Case) -> Row:
    mark = f"nl-{secrets.token_hex(5)}"
    limits = Limits(cpu_seconds=case.limits.cpu_seconds, wall_seconds=WALL_SECONDS)
    cell.ask(bench.job(cell, case.files(mark, cell.out)), limits)
    ended = cell.close(EXPECTED_FILES)
    if ended.outputs is not None:
        shutil.rmtree(ended.outputs, ignore_errors=True)
    left = leftovers(mark)
    return Row(
        name=case.name,
        number=case.number,
        expected=" or ".join(sorted(case.expected)),
        seen=str(ended.ending),
        holds=str(ended.ending) in case.expected and not left,
        detail=left or ended.reason[:200],
    )


@dataclass(frozen=True)
class _Trained:
    """What came of an honest program."""

    weights: Tokens
    steps_a_second: float
    """Per CPU second, by its own account."""


@dataclass(frozen=True)
class _Floor:
    """What the honest program does when nobody else is there."""

    bits: float
    noise: float
    """Largest difference to be expected from one training to the next, in bits per byte."""
    steps_a_second: float

    @classmethod
    def of(cls, bench: Bench, alone: Sequence[_Trained | str]) -> "_Floor":
        """Measured on trainings one after the other. Raises SandboxError if one failed."""
        if failed := [entry for entry in alone if isinstance(entry, str)]:
            raise SandboxError(failed[0])
        trained = [entry for entry in alone if isinstance(entry, _Trained)]
        bits = [_bits(bench, entry.weights) for entry in trained]
        speed = statistics.mean(entry.steps_a_second for entry in trained)
        noise = 3 * statistics.stdev(bits) + ROUNDING_BITS
        return cls(statistics.mean(bits), noise, speed)

    def __str__(self) -> str:
        return f"{self.bits:.4f} +- {self.noise:.4f} bits per byte"


def _honest(bench: Bench, cell: Cell) -> _Trained | str:
    """Train the honest program; a text says why it did not."""
    job = bench.job(cell, {"honest.py": HONEST, "program.py": STEADY})
    job = Message({**job.header, "budget_seconds": HONEST_SECONDS})
    cell.ask(job, HONEST_LIMITS)
    run = cell.close(EXPECTED_FILES)
    if run.outputs is None:
        return f"{run.ending}: {run.reason}"
    try:
        weights = np.fromfile(run.outputs / "weights.safetensors", np.uint8)
        last = json.loads((run.outputs / "curve.jsonl").read_text().splitlines()[-1])
    finally:
        shutil.rmtree(run.outputs, ignore_errors=True)
    if last["step"] < HONEST_STEPS:
        return f"only {last['step']} of {HONEST_STEPS} steps in {HONEST_SECONDS} CPU seconds"
    return _Trained(weights, last["step"] / (last["progress"] * HONEST_SECONDS))


def _bits(bench: Bench, weights: Tokens) -> float:
    case = Case(name="", number="", program="", expected=frozenset())
    verdict, _ = bench.score(case, "", weights)
    if verdict.bits_per_byte is None:
        raise SandboxError(f"an honest program was refused: {verdict.why}")
    return verdict.bits_per_byte


def _compare(bench: Bench, trained: _Trained | str, floor: _Floor) -> Row:
    row = {"name": "honest among the hostile", "number": "25", "expected": str(floor)}
    if isinstance(trained, str):
        return Row(**row, seen="failed", holds=False, detail=trained)
    bits = _bits(bench, trained.weights)
    share = trained.steps_a_second / floor.steps_a_second
    return Row(
        **row,
        seen=f"{bits:.4f} bits per byte",
        holds=abs(bits - floor.bits) <= floor.noise,
        detail=f"{share:.0%} of the steps that it takes alone in a CPU second",
    )
