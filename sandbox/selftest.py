"""Runs the abuse suite through a real tier and looks at the host afterwards.

Cases run two at a time through one warm pool, so that each also has to leave its neighbour alone.
"""

import functools
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from nightlab.errors import NightlabError, SandboxError, UsageError
from nightlab.sandbox import leftovers as folders
from nightlab.sandbox import remains
from nightlab.sandbox.abuse import CASES
from nightlab.sandbox.abuse.case import (
    ACCEPTED,
    HONEST,
    MEMORY_BYTES,
    OUTPUT_BYTES,
    PROCESSES,
    REJECTED,
    WEIGHTS_BYTES,
    Case,
)
from nightlab.sandbox.choose import choose, survey
from nightlab.sandbox.guest.wire import Message
from nightlab.sandbox.protocol import Cell, Room, Sandbox
from nightlab.vocabulary import Ending, Limits, Run, Tier

SEED = 1
BUDGET_SECONDS = 0.2
CONTEXT = 32
HONEST_LIMITS = Limits(cpu_seconds=10, wall_seconds=300)
NOTHING_LEFT = "no folder, control group, container or volume stays"
NOT_STOPPED, NOT_RUN = "not stopped by this tier", "not run"
EXPECTED_FILES = {
    "weights.safetensors": WEIGHTS_BYTES,
    "curve.jsonl": 1 << 20,
    "spectra.jsonl": 1 << 20,
}

Tokens = NDArray[np.uint8]
Ask = Callable[[Tokens], NDArray[np.generic] | None]


@dataclass(frozen=True)
class Verdict:
    """What the trusted scorer says of two oracles."""

    bits_per_byte: float | None
    """None when a probe failed."""
    why: str


Judge = Callable[[int, Ask, Ask], Verdict]
"""A declared context and two oracles to a verdict."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case as it went."""

    name: str
    number: str
    expected: str
    seen: str
    holds: bool
    detail: str = ""
    """Why it ended so, or what was left on the host."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """All cases of one tier."""

    tier: Tier
    rows: Sequence[Row]
    seconds: float

    @property
    def holds(self) -> bool:
        return all(row.holds for row in self.rows)

    def document(self) -> dict[str, object]:
        return {"tier": str(self.tier), "cases": [vars(row) for row in self.rows]}


def tiers(name: str) -> list[Tier]:
    """The named tier, or every tier that is ready here."""
    if not name:
        return [entry.tier for entry in survey() if entry.ready]
    if name not in list(Tier):
        raise UsageError(f"no sandbox tier {name!r}; there are {', '.join(Tier)}")
    return [Tier(name)]


class Bench:
    """A tier under test, with an honest program's data and weights."""

    def __init__(self, sandbox: Sandbox, judge: Judge) -> None:
        self.sandbox, self.judge = sandbox, judge
        self.folder = Path(tempfile.mkdtemp(prefix=folders.stem("selftest")))
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o755)
        text = (HONEST * 40).encode()
        (self.data / "train.u8").write_bytes(text)
        self.folder.chmod(0o755)

    def room(self, case: Case | None = None, *, outputs: bool = True) -> Room:
        return Room(
            data=self.data if outputs else None,
            memory_bytes=case.memory_bytes if case else MEMORY_BYTES,
            processes=PROCESSES,
            output_bytes=OUTPUT_BYTES if outputs else 0,
        )

    def close(self) -> None:
        self.sandbox.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def row(self, case: Case) -> Row:
        """Run one case and look at the host."""
        mark = f"nl-{secrets.token_hex(5)}"
        expected = " or ".join(sorted(case.expected))
        row = {"name": case.name, "number": case.number, "expected": expected}
        if case.isolating and self.sandbox.tier is Tier.PROCESS:
            return Row(**{**row, "expected": NOT_STOPPED}, seen=NOT_RUN, holds=True)
        try:
            if case.ask == "train":
                run, wrong = self.train(case, mark)
                seen, detail = str(run.ending), run.reason[:300]
            else:
                (seen, detail), wrong = self._score(case, mark), ""
        except NightlabError as error:
            return Row(**row, seen="environment fault", holds=False, detail=str(error)[:300])
        wrong = wrong or leftovers(mark)
        holds = seen in case.expected and not wrong
        return Row(**row, seen=seen, holds=holds, detail=wrong or detail)

    def train(self, case: Case, mark: str) -> tuple[Run, str]:
        """Train a case's program; also what is wrong with its run, and its weights are kept."""
        cell = self.sandbox.open(self.room(case))
        cell.ask(self.job(cell, case.files(mark, cell.out)), case.limits)
        run = cell.close(EXPECTED_FILES)
        try:
            return run, case.proof(run)
        finally:
            if run.outputs is not None:
                shutil.rmtree(run.outputs, ignore_errors=True)

    @functools.cached_property
    def weights(self) -> Tokens:
        """Of an honest program; the liars have the same parameters.

        Raises:
            SandboxError: even an honest program does not train here.
        """
        return self.honest(self.sandbox.open(self.room()))

    def honest(self, cell: Cell) -> Tokens:
        """Train the honest program in a cell; returns its weights. Raises SandboxError."""
        cell.ask(self.job(cell, {"program.py": HONEST}), HONEST_LIMITS)
        run = cell.close(EXPECTED_FILES)
        if run.outputs is None:
            raise SandboxError(f"an honest program does not train: {run.ending}, {run.reason}")
        content = (run.outputs / "weights.safetensors").read_bytes()
        shutil.rmtree(run.outputs)
        return np.frombuffer(content, np.uint8)

    def job(self, cell: Cell, files: dict[str, str]) -> Message:
        return Message(
            {
                "do": "train", "files": files, "seed": SEED, "budget_seconds": BUDGET_SECONDS,
                "data": [{"tokens": f"{cell.data}/train.u8"}], "out": cell.out, "max_context": 64,
                "device": "cpu",
            }
        )  # fmt: skip

    def _score(self, case: Case, mark: str) -> tuple[str, str]:
        verdict, runs = self.score(case, mark, self.weights)
        failed = [run for run in runs if run.ending is not Ending.FINISHED]
        rejected = verdict.bits_per_byte is None
        if failed and rejected:
            return str(failed[0].ending), failed[0].reason
        return (REJECTED if rejected else ACCEPTED), verdict.why

    def score(self, case: Case, mark: str, weights: Tokens) -> tuple[Verdict, list[Run]]:
        """What the judge says of a case's program with these weights, in two fresh cells."""
        cells = [self.sandbox.open(self.room(outputs=False)) for _ in range(2)]
        try:
            asks = [self._oracle(cell, case, mark, weights) for cell in cells]
            verdict = self.judge(CONTEXT, *asks)
        finally:
            runs = [cell.close() for cell in cells]
        return verdict, runs

    def _oracle(self, cell: Cell, case: Case, mark: str, weights: Tokens) -> Ask:
        job = {"do": "open", "files": case.files(mark, cell.out), "device": "cpu"}
        cell.ask(Message(job, [weights]), HONEST_LIMITS)

        def ask(tokens: Tokens) -> NDArray[np.generic] | None:
            message = Message({"do": "logits"}, [tokens])
            answer = cell.ask(message, case.limits, answer_bytes=case.answer_bytes)
            if answer is None or len(answer.arrays) != 1:
                return None
            return answer.arrays[0]

        return ask


def leftovers(mark: str) -> str:
    """What still bears the mark of a case on this host; empty if nothing does."""
    deadline = time.monotonic() + 2.0
    while found := _marked(mark):
        if time.monotonic() > deadline:
            return f"left processes {found}"
        time.sleep(0.02)
    planted = Path("/tmp/nightlab-abuse-was-here")
    return f"left {planted}" if planted.exists() else ""


def _marked(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def nothing_left(tier: Tier, before: AbstractSet[str]) -> Row:
    """The last row of a table: what the tier, now closed, has on this host that it had not."""
    left = sorted(remains.of_this_process(tier) - before)
    return Row(
        name=NOTHING_LEFT,
        number="+",
        expected="nothing",
        seen=f"{len(left)} things" if left else "nothing",
        holds=not left,
        detail=", ".join(left)[:300],
    )


def run(
    tier: Tier,
    judge: Judge,
    only: str = "",
    hear: Callable[[str], None] = lambda _: None,
    workers: int = 2,
) -> Table:
    """Run all cases whose name contains ``only`` through a tier."""
    from nightlab.sandbox.warm import WarmSandbox

    started, before = time.monotonic(), remains.of_this_process(tier)
    sandbox = choose(tier).sandbox
    bench = Bench(sandbox, judge)
    if tier is not Tier.PROCESS:
        bench.sandbox = WarmSandbox(sandbox, [bench.room(), bench.room(outputs=False)], workers)
    os.environ["NIGHTLAB_CANARY"] = "not for programs"
    chosen = [case for case in CASES if only in case.name]

    def one(case: Case) -> Row:
        row = bench.row(case)
        hear(f"{tier}: {case.name}: {row.seen}{'' if row.holds else ' (MISS)'} {row.detail[:100]}")
        return row

    try:
        bench.weights  # noqa: B018
        with ThreadPoolExecutor(workers) as pool:
            rows = list(pool.map(one, chosen))
    finally:
        bench.close()
    rows.append(nothing_left(tier, before))
    return Table(tier=tier, rows=rows, seconds=time.monotonic() - started)


def show(tables: Sequence[Table]) -> None:
    """Print the tables for a person; what programs said is escaped."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    for table in tables:
        grid = Grid(title=f"{table.tier}, {table.seconds:.0f} s")
        for column in ("#", "case", "expected", "seen", "", "detail"):
            grid.add_column(column)
        for row in table.rows:
            tick = "ok" if row.holds else "MISS"
            detail = row.detail.encode("unicode_escape").decode()[:120]
            grid.add_row(row.number, row.name, row.expected, row.seen, tick, escape(detail))
        Console().print(grid)
