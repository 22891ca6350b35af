"""Hostile and honest programs side by side: every hostile one ends as it must, and every honest
one scores what it scores alone.
"""

import secrets
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from nightlab.errors import SandboxError
from nightlab.sandbox.abuse import CASES
from nightlab.sandbox.abuse.case import Case
from nightlab.sandbox.choose import choose
from nightlab.sandbox.protocol import Cell
from nightlab.sandbox.selftest import EXPECTED_FILES, Bench, Judge, Row, Table, Tokens, leftovers
from nightlab.vocabulary import Limits, Tier

HOSTILE = (
    "fork bomb", "heap bomb", "disk fill", "log flood", "spins to the deadline", "inode fill",
    "double fork, own session, deaf to SIGTERM", "short-lived children hide their CPU time",
)  # fmt: skip
WALL_SECONDS = 90.0
"""Fifty cells share few cores: only CPU time may end the busy ones."""
ALONE = 3
NOISE_BITS = 0.35
"""Spread of the tiny program's score from one short training to the next, in bits per byte."""


def run(
    tier: Tier,
    judge: Judge,
    hostile: int = 40,
    honest: int = 10,
    hear: Callable[[str], None] = lambda _: None,
) -> Table:
    """Open all cells, let all of them go at once, and compare."""
    started = time.monotonic()
    bench = Bench(choose(tier).sandbox, judge)
    try:
        alone = [_bits(bench, bench.weights) for _ in range(1)]
        alone += [
            _bits(bench, bench.honest(bench.sandbox.open(bench.room()))) for _ in range(ALONE)
        ]
        hear(f"{tier}: alone: {', '.join(f'{bits:.3f}' for bits in alone)} bits per byte")
        rows = _together(bench, hostile, honest, statistics.mean(alone))
    finally:
        bench.close()
    return Table(tier=tier, rows=rows, seconds=time.monotonic() - started)


def _together(bench: Bench, hostile: int, honest: int, alone: float) -> list[Row]:
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
        weights = [future.result() for future in good]
    return rows + [_compare(bench, entry, alone) for entry in weights]


def _hostile(bench: Bench, cell: Cell, case: Case) -> Row:
    mark = f"nl-{secrets.token_hex(5)}"
    limits = Limits(cpu_seconds=case.limits.cpu_seconds, wall_seconds=WALL_SECONDS)
    cell.ask(bench.job(cell, case.files(mark, cell.out)), limits)
    ended = cell.close(EXPECTED_FILES)
    left = leftovers(mark)
    return Row(
        name=case.name,
        number=case.number,
        expected=" or ".join(sorted(case.expected)),
        seen=str(ended.ending),
        holds=str(ended.ending) in case.expected and not left,
        detail=left or ended.reason[:200],
    )


def _honest(bench: Bench, cell: Cell) -> Tokens | str:
    try:
        return bench.honest(cell)
    except SandboxError as error:
        return str(error)


def _bits(bench: Bench, weights: Tokens) -> float:
    verdict, _ = bench.score(
        Case(name="", number="", program="", expected=frozenset()), "", weights
    )
    if verdict.bits_per_byte is None:
        raise SandboxError(f"an honest program was refused: {verdict.why}")
    return verdict.bits_per_byte


def _compare(bench: Bench, weights: Tokens | str, alone: float) -> Row:
    row = {"name": "honest among the hostile", "number": "25"}
    expected = f"{alone:.2f} +- {NOISE_BITS} bits per byte"
    if isinstance(weights, str):
        return Row(**row, expected=expected, seen="failed", holds=False, detail=weights)
    bits = _bits(bench, weights)
    near = abs(bits - alone) <= NOISE_BITS
    return Row(**row, expected=expected, seen=f"{bits:.3f} bits per byte", holds=near)
