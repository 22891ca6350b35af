"""One trial: train a program in a sandbox, then let trusted code score it through two oracles."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from nightlab.agents import probing
from nightlab.errors import SandboxError, UsageError
from nightlab.evals import meters
from nightlab.evals.oracles import Oracles, Tokens, Work, measured
from nightlab.evals.scorer import Scorer, make, parameters
from nightlab.evals.task import Source, Splits, Task
from nightlab.sandbox.guest import windows
from nightlab.sandbox.guest.windows import PROBE_ROWS, probed
from nightlab.sandbox.guest.wire import Array, Message
from nightlab.sandbox.protocol import Cell, Hear, Room, Sandbox, ignore
from nightlab.sandbox.warm import WarmSandbox
from nightlab.vocabulary import (
    Ending,
    Integrity,
    Limits,
    Measurement,
    Program,
    Run,
    Rung,
    Split,
    Tier,
)

START_ALLOWANCE = 3.0
"""CPU seconds beside the training loop: building the model, its first step, saving."""
GPU_START_ALLOWANCE = 60.0
"""Seconds by the clock beside the training loop on a GPU: its driver, and kernels to compile."""
OVERSHOOT = 1.10
"""A trial that uses more than this multiple of its rung's budget is ended."""
SELF_REPORTED = {"curve.jsonl": 1 << 20, probing.LOG: 1 << 20}
"""What the trainer says of itself: file name to largest size in bytes."""
METERING = 4
"""Part of the meters' seed: the evaluator's draws for scoring stay what they are without them."""
SCORING_LIMITS = Limits(cpu_seconds=120, wall_seconds=300)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where trials of one campaign are run."""

    task: Task
    splits: Splits
    sandbox: Sandbox
    device: str = "cpu"
    wanted: frozenset[str] = frozenset()
    """What the objective names: of what takes time, meters of these are read and rows scored."""

    @property
    def scorer(self) -> Scorer:
        """The task's trusted code."""
        return make(self.task)

    @property
    def training_room(self) -> Room:
        """What a training cell is given: the train split and nothing else."""
        return Room(data=self.splits.train, memory_bytes=self.task.memory_bytes, gpu=self.task.gpu)

    @property
    def oracle_room(self) -> Room:
        """What an oracle's cell is given: no data and no output folder."""
        return Room(memory_bytes=self.task.memory_bytes, output_bytes=0, gpu=self.task.gpu)

    @property
    def trained(self) -> tuple[str, ...]:
        """The files that a trained program consists of."""
        script = self.task.script
        return ("weights.safetensors",) if script is None else script.outputs

    def open(self) -> Cell:
        """A warm training cell. Raises SandboxError."""
        return self.sandbox.open(self.training_room)

    def drain(self) -> None:
        """End the cells that wait to be asked for; the sandbox itself stays open."""
        if isinstance(self.sandbox, WarmSandbox):
            self.sandbox.drain()

    def smoke(self, cell: Cell, program: Program) -> str | None:
        """Build, one step and a causality check on tiny shapes; why it failed, or None.

        Raises SandboxError when the environment failed.
        """
        job = self._job(cell, program, seed=0, budget=0.0)
        answer = cell.ask(Message({**job, "do": "smoke"}), Limits(cpu_seconds=20, wall_seconds=90))
        if answer is None:
            run = cell.close()
            if run.ending is Ending.LOST:
                raise SandboxError(f"a smoke test was lost: {run.reason}")
            return f"{run.ending}: {run.reason}"
        error = answer.header.get("error")
        return None if error is None else str(error)

    def train(
        self, cell: Cell, program: Program, rung: Rung, seed: int, hear: Hear = ignore
    ) -> Run:
        """Train once and collect the weights; the cell is closed afterwards."""
        budget = rung.cpu_seconds
        job = self._job(cell, program, seed=seed, budget=budget)
        limits = self._limits(budget)
        cell.ask(Message({**job, "do": "train"}), limits, hear)
        reported = SELF_REPORTED if self.task.script is None else {}
        return cell.close({**dict.fromkeys(self.trained, self.task.weights_bytes), **reported})

    def measure(
        self, program: Program, run: Run, split: Split, seed: int, *, fresh_checker: bool = True
    ) -> Measurement | None:
        """Score a finished run on a split; None if it did not finish.

        Raises SandboxError, the run's outputs discarded, when the environment failed.
        """
        if run.ending is not Ending.FINISHED or run.outputs is None:
            return None
        files = {name: run.outputs / name for name in self.trained}
        try:
            measured = self.score(
                program, files, split, seed, fresh_checker=fresh_checker, outputs=run.outputs
            )
        except SandboxError:
            discard(run)
            raise
        extra = {
            "params": float(sum(map(parameters, files.values()))),
            "peak_memory_mb": run.peak_memory_bytes / 2**20,
            **self._pace(run),
        }
        metrics = {**measured.metrics, **extra} if measured.metrics else {}
        return Measurement(
            metrics=metrics,
            integrity=measured.integrity,
            reasons=measured.reasons,
            scoring_seconds=measured.scoring_seconds,
        )

    def _pace(self, run: Run) -> dict[str, float]:
        """Tokens that the trainer says it was fed, over the CPU seconds that the host saw the run
        use, or on a GPU over its clock; nothing without a count."""
        tokens = fed(run.outputs) if run.outputs else None
        seconds = run.cpu_seconds if self.device == "cpu" else run.wall_seconds
        return {"train_tokens_per_s": tokens / seconds} if tokens and seconds else {}

    def score(
        self,
        program: Program,
        trained: Mapping[str, Path],
        split: Split,
        seed: int,
        *,
        fresh_checker: bool = True,
        outputs: Path | None = None,
    ) -> Measurement:
        """The task's metrics of a trained program (its files by name) on a split.

        ``outputs``: the run's folder, whose reported spectra are then compared with the oracle's.
        ``fresh_checker``: whether a second cell that has seen nothing answers the probes, as it
        must for foreign code; without it the probes go to the reader, late and in other company.
        Raises SandboxError when the environment failed: that is no score and no failure.
        """
        contents = [np.fromfile(trained[name], dtype=np.uint8) for name in self.trained]
        started = time.monotonic()
        with self._oracles(2 if fresh_checker else 1) as cells:
            waited = time.monotonic() - started
            scored = self._score(cells, program, contents, split, seed, outputs)
            return replace(scored, scoring_seconds=time.monotonic() - started - waited)

    @contextmanager
    def _oracles(self, count: int) -> Iterator[list[Cell]]:
        """Fresh cells without data. Raises SandboxError when one was lost, whatever was scored."""
        cells: list[Cell] = []
        try:
            for _ in range(count):
                cells.append(self.sandbox.open(self.oracle_room))
            yield cells
        finally:
            runs = [cell.close() for cell in cells]
        for run in runs:
            if run.ending is Ending.LOST:
                raise SandboxError(f"an oracle was lost: {run.reason}")

    def _score(
        self,
        cells: list[Cell],
        program: Program,
        contents: Sequence[Array],
        split: Split,
        seed: int,
        outputs: Path | None,
    ) -> Measurement:
        oracles = []
        for cell in cells:
            oracle = self._opened(cell, program, contents)
            if oracle is None:
                reason = cell.close().reason
                return Measurement(metrics={}, reasons=(f"the oracle did not open: {reason}",))
            oracles.append(oracle)
        file = self._file(split)
        rng = np.random.default_rng([seed, file.stat().st_size])
        pair = Oracles(reader=oracles[0], checker=oracles[-1], wanted=self.wanted)
        costs = measured(partial(self._metered, pair, split, seed))
        if costs.reasons:
            return costs
        scored = self.scorer.score(file, pair, rng)
        if scored.metrics:
            scored = replace(scored, metrics={**scored.metrics, **costs.metrics})
        if outputs is None or not scored.metrics or self.task.script is not None:
            return scored
        context = pair.context(self.task.max_context)
        secret = [
            self.scorer.sample(file, PROBE_ROWS, context, rng) for _ in range(probing.BATCHES)
        ]
        trained = [_found(source, self.splits.train) for source in self.scorer.sources]
        known_BT = probed(trained, context, seed)
        reader = cells[0]
        if not reader.alive():  # it died of a context that was too long for it
            reader = self.sandbox.open(self.oracle_room)
            cells.append(reader)
            self._opened(reader, program, contents)
        return _suspected(scored, probing.check(reader, outputs, secret, known_BT).doubts)

    def _opened(
        self, cell: Cell, program: Program, contents: Sequence[Array]
    ) -> "CellOracle | None":
        """The trained program in a cell; None where it does not even load."""
        idle = None if self.sandbox.tier is Tier.PROCESS else cell.memory_bytes()
        job = {**self._files(program), "do": "open", "device": self.device}
        answer = cell.ask(Message(job, contents), SCORING_LIMITS)
        if answer is None or "error" in answer.header:
            return None
        weight = sum(each.nbytes for each in contents)
        return CellOracle(cell, answer.header, idle, weight)

    def _metered(self, pair: Oracles, split: Split, seed: int, done: Work) -> None:
        """What the objective asks of meters, before anything is scored: a cell is fresh then. The
        hold-out decides on quality only."""
        if not self.wanted or split is Split.HOLDOUT or self.task.script is not None:
            return
        rng = np.random.default_rng([seed, METERING])
        scorer, file = self.scorer, self._file(split)

        def passages(rows: int, length: int) -> Tokens:
            found = scorer.passages(file, rows, length, rng)
            if found.shape != (rows, length):
                raise UsageError(f"task {self.task.name} scores no sequence of {length} tokens")
            return found

        subject = meters.Subject(
            oracles=pair,
            vocabulary=self.task.vocabulary,
            passages=passages,
            context=pair.context(self.task.max_context),
            windowed=scorer.shortest == 0,
        )
        done.metrics.update(meters.measure(subject, self.wanted, rng))
        if self.device != "cpu":  # there the work is not the processor's
            done.metrics.pop(meters.CPU_METRIC, None)

    def _file(self, split: Split) -> Path:
        return self.splits.holdout if split is Split.HOLDOUT else self.splits.search

    def _limits(self, budget: float) -> Limits:
        """On a GPU the trainer counts by the clock, and so does what ends it."""
        on_gpu = self.device != "cpu"
        allowed = OVERSHOOT * budget + (GPU_START_ALLOWANCE if on_gpu else START_ALLOWANCE)
        return Limits(
            cpu_seconds=2 * allowed if on_gpu else allowed,
            wall_seconds=allowed if on_gpu else 5 * budget + 120,
            memory_bytes=self.task.memory_bytes,
        )

    def _files(self, program: Program) -> dict[str, object]:
        """The program as a cell is told of it, with what lies frozen beside it."""
        script = self.task.script
        if script is None:
            return {"files": dict(program.files)}
        return {
            "files": {**program.files, **script.frozen},
            "script": script.trainer,
            "outputs": list(script.outputs),
        }

    def _job(self, cell: Cell, program: Program, *, seed: int, budget: float) -> dict[str, object]:
        return {
            **self._files(program),
            "seed": seed,
            "budget_seconds": budget,
            "data": cell.data
            if self.task.script
            else [_located(source, cell.data) for source in self.scorer.sources],
            "out": cell.out,
            "max_context": self.task.max_context,
            "shortest": self.scorer.shortest,
            "device": self.device,
        }


def fed(outputs: Path) -> float | None:
    """Tokens at the end of the curve that a trainer left; None where it says none."""
    try:
        lines = (outputs / "curve.jsonl").read_text(errors="replace").splitlines()
        tokens = json.loads(lines[-1])["tokens"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return float(tokens) if type(tokens) is int and tokens > 0 else None


def discard(run: Run) -> None:
    """Delete a run's collected files once they are stored or of no use."""
    if run.outputs is not None:
        shutil.rmtree(run.outputs, ignore_errors=True)


@dataclass(frozen=True)
class CellOracle:
    """A trained program in a cell, as a scorer sees it."""

    cell: Cell
    facts: Mapping[str, object]
    idle_bytes: int | None
    weights_bytes: int

    def memory_bytes(self) -> int:
        """Of its cell now, seen from outside."""
        return self.cell.memory_bytes()

    def cpu_seconds(self) -> float:
        """Of its cell so far, seen from outside."""
        return self.cell.cpu_seconds()

    def ask(self, what: str, *arrays: Array, **options: object) -> Sequence[Array] | None:
        """What the guest answers; None when it died, passed a limit or raised."""
        answer = self.cell.ask(Message({**options, "do": what}, arrays), SCORING_LIMITS)
        return None if answer is None or "error" in answer.header else answer.arrays


def _located(source: Source, folder: str) -> dict[str, object]:
    """A source as the guest sees it."""
    mask = None if source.mask is None else f"{folder}/{source.mask}"
    return {"tokens": f"{folder}/{source.tokens}", "mask": mask, "row": source.row}


def _found(source: Source, folder: Path) -> windows.Source:
    """A source where it lies on the host."""
    mask = None if source.mask is None else folder / source.mask
    return windows.Source(folder / source.tokens, mask, source.row)


def _suspected(measured: Measurement, doubts: tuple[str, ...]) -> Measurement:
    """The same numbers, with a tell-tale where spectra were misreported."""
    if not doubts:
        return measured
    reasons = (*measured.reasons, *doubts)
    return replace(measured, integrity=Integrity.SUSPECT, reasons=reasons)
