"""One campaign's working state: the ledger, the bench, the plan, and who may train right now."""

import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median
from typing import Protocol

from nightlab.agents import trial as trials
from nightlab.agents.board import Board
from nightlab.agents.plan import Plan, seeds
from nightlab.agents.probing import PROBES
from nightlab.agents.promises import PAIRS, SCREENS, Promises
from nightlab.agents.trial import Bench
from nightlab.errors import SandboxError
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import (
    CHECKUP,
    Arm,
    Artifact,
    Campaign,
    Lease,
    Trial,
    TrialStatus,
)
from nightlab.sandbox.protocol import Cell
from nightlab.vocabulary import Ending, Objective, Program, Purpose, Run, Rung, Split

RECENT_TRIALS = 6
PAUSES = (2.0, 15.0)
"""Seconds before each new try of what the environment lost: what an engine needs to come back."""
TRIES = 1 + len(PAUSES)
"""How often a trial is tried before an environment fault stops the campaign."""
OUR_AUTHORS = ("baseline", "catalogue", "tpe", "cmaes")
"""Authors that only put together code that ships with the lab."""
KEPT = (Purpose.CONFIRM, Purpose.AUDIT, Purpose.NOISE)
"""Trials whose weights are stored: the hold-out is scored on them later."""


class Watch(Protocol):
    """Hears a trial's curve while it is trained."""

    def restart(self) -> None:
        """Another try of the same trial begins."""
        ...

    def hear(self, point: Mapping[str, object]) -> None:
        """Take a self-reported point; raises AbortError to end the training."""
        ...

    def evidence(self) -> bytes | None:
        """What to keep beside the trial, as JSON, where something was decided."""
        ...


@dataclass
class Lab:
    """Everything a node of the graph may use."""

    ledger: Ledger
    lease: Lease
    campaign: Campaign
    bench: Bench
    plan: Plan
    board: Board = field(default_factory=Board)
    unsafe: bool = False
    cells: dict[str, Cell] = field(default_factory=dict)
    """Cells that passed vetting and wait for their experiment's first trial."""
    promises: Promises = field(default_factory=Promises)
    looks: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_TRIALS))
    """Wall seconds of the newest looks at the hold-out."""
    _slots: threading.Semaphore = field(init=False)
    _locks: dict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _challenger: str | None = None
    _challenge: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._slots = threading.Semaphore(self.plan.workers)

    @property
    def objective(self) -> Objective:
        """What the campaign optimises."""
        return self.campaign.objective

    @property
    def baseline(self) -> str:
        """Experiment id of the baseline."""
        return f"{self.campaign.id}-0"

    def incumbent(self) -> str:
        """Experiment id of the best confirmed program so far."""
        return self.ledger.campaign(self.campaign.id).incumbent or self.baseline

    def program_of(self, experiment: str) -> Program:
        """The program an experiment tries."""
        stored = self.ledger.experiment(experiment).program
        if stored is None:
            raise KeyError(f"experiment {experiment} has no program yet")
        return self.ledger.program(stored).program

    def foreign_author(self, experiment: str) -> str | None:
        """Who, on the way from the baseline to this program, wrote code that is not ours."""
        authors = (e.author for e in self.ledger.lineage(experiment))
        return next((author for author in authors if author not in OUR_AUTHORS), None)

    def log(self, kind: str, message: str, experiment: str | None = None) -> None:
        """One line for the person."""
        self.ledger.log(self.campaign.id, kind, message, experiment=experiment)

    def seeds(self, purpose: Purpose, count: int, *, confirmation: int = 0) -> Sequence[int]:
        """The evaluator's seeds for this campaign."""
        return seeds(self.campaign.seed, purpose, count, confirmation=confirmation)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """One of the campaign's workers' places, for anything that trains."""
        with self._slots:
            yield

    def challenge(self, experiment: str) -> None:
        """Wait until this experiment alone may challenge the incumbent; harmless to repeat."""
        with self._challenge:
            self._challenge.wait_for(lambda: self._challenger in (None, experiment))
            self._challenger = experiment

    def end_challenge(self, experiment: str) -> None:
        """Let the next challenger go; harmless to repeat."""
        with self._challenge:
            if self._challenger == experiment:
                self._challenger = None
                self._challenge.notify_all()

    def next_confirmation(self, experiment: str) -> int:
        """The number of this experiment's confirmation, counted over the campaign from 1."""
        trials = self.ledger.trials(campaign=self.campaign.id)
        earlier = {t.experiment for t in trials if t.purpose is Purpose.CONFIRM} - {experiment}
        return len(earlier) + 1

    def seconds_left(self) -> float:
        """To the campaign's time of day or the end of its time, whichever is nearer."""
        left = math.inf
        until = self.campaign.settings.get("until")
        if isinstance(until, str):
            left = (datetime.fromisoformat(until) - datetime.now(UTC)).total_seconds()
        seconds = self.objective.budget.seconds
        if seconds is not None:
            left = min(left, seconds - self.ledger.spent(self.campaign.id).wall_seconds)
        return left

    def money_left(self) -> float:
        """Of the budgets of USD, tokens and GPU time, the smallest share; infinite without any."""
        budget, spent = self.objective.budget, self.ledger.spent(self.campaign.id)
        gpu_seconds = 0.0 if self.bench.device == "cpu" else spent.cpu_seconds
        bounds = [
            (budget.usd, spent.usd),
            (budget.tokens, float(spent.tokens)),
            (budget.gpu_seconds, gpu_seconds),
        ]
        return min((1 - used / bound for bound, used in bounds if bound), default=math.inf)

    def trials_left(self) -> float:
        """Of the campaign's budget of trials; infinite without one."""
        trials = self.objective.budget.trials
        if trials is None:
            return math.inf
        return trials - self.ledger.spent(self.campaign.id).trials

    def trials_free(self, experiment: str | None = None) -> float:
        """Of the budget, what neither the closing comparison nor any other experiment under way
        may still need."""
        return self.trials_left() - self.plan.noise_trials - self.promises.others(experiment)

    def trial_seconds(self, rung: Rung) -> float:
        """What a trial on a rung takes on this machine by the clock, at its present pace."""
        recent = self.ledger.paces(self.campaign.id, RECENT_TRIALS)
        if not recent:
            return rung.cpu_seconds + self.plan.scoring_seconds
        pace = median(one.wall_per_cpu for one in recent)
        return pace * rung.cpu_seconds + median(one.beside_seconds for one in recent)

    def look_seconds(self) -> float:
        """What scoring one trial on the hold-out takes by the clock: as the last looks did, or,
        before there is one, all that a trial takes beside its training and its scoring again, as
        the hold-out is twice the search split. Nothing where the goal is a size or a speed,
        which is the same on every split."""
        aimed, scored = self.objective.metric, self.bench.task.metric
        if aimed.partition("@")[0] != scored.partition("@")[0]:
            return 0.0
        if self.looks:
            return median(self.looks)
        paces = self.ledger.paces(self.campaign.id, RECENT_TRIALS)
        scoring = self.ledger.scoring_seconds(self.campaign.id, Split.SEARCH, RECENT_TRIALS)
        if not paces or not scoring:
            return 2 * self.plan.scoring_seconds
        return median(one.beside_seconds for one in paces) + median(scoring)

    def closing_seconds(self) -> float:
        """Wall seconds to keep back for the closing comparison and its look at the hold-out."""
        looks = 2 * self.plan.noise_trials
        return self._rounds(self.plan.noise_trials, looks)

    def _rounds(self, trials: int, looks: int) -> float:
        """Wall seconds of so many trials on the confirming rung and looks, side by side."""
        workers = self.plan.workers
        training = math.ceil(trials / workers) * self.trial_seconds(self.plan.confirm)
        return training + math.ceil(looks / workers) * self.look_seconds()

    def may_begin(self) -> bool:
        """Whether the budget of trials has room for one more experiment and its confirmation."""
        return self.trials_free() >= SCREENS + 2 * PAIRS

    def may_confirm(self, experiment: str) -> bool:
        """Whether its confirmation and the closing comparison still fit the budget."""
        trials = 2 * PAIRS
        enough = self.trials_free(experiment) >= trials
        return (
            enough and self.seconds_left() > self._rounds(trials, trials) + self.closing_seconds()
        )

    def may_go_on(self, experiment: str, pairs: int) -> bool:
        """Whether one more pair of its confirmation, and looks at all of them, fit the budget."""
        seconds = self._rounds(2, 2 * (pairs + 1)) + self.closing_seconds()
        return self.trials_free(experiment) >= 2 and self.seconds_left() > seconds

    def trial(
        self,
        experiment: str,
        rung: Rung,
        seed: int,
        purpose: Purpose,
        *,
        arm: Arm = Arm.CANDIDATE,
        of: str | None = None,
        watch: Watch | None = None,
    ) -> Trial:
        """Train and score once, or return the finished trial of that key.

        ``of``: the experiment whose program is trained, when it is not the asking one's.
        ``watch``: hears the curve and may end the training.
        Raises SandboxError when the environment failed repeatedly.
        """
        program = self.program_of(of or experiment)
        key = f"{experiment}/{rung.name}/{seed}/{purpose}/{arm}"
        with self._guard:
            lock = self._locks[key]
        with lock, self.slot():
            for pause in (0.0, *PAUSES):
                time.sleep(pause)
                started = time.monotonic()
                row = self.ledger.begin_trial(
                    self.lease,
                    experiment,
                    program.id,
                    rung=rung.name,
                    seed=seed,
                    purpose=purpose,
                    arm=arm,
                )
                if row.status is TrialStatus.FINISHED:
                    return row
                done = self._train(row, program, rung, started, watch)
                if done.status is TrialStatus.FINISHED:
                    return done
                self.log(
                    "fault", f"{row.id} lost: {done.run.reason if done.run else ''}", experiment
                )
        raise SandboxError(f"trial {row.id} was lost {TRIES} times; see `nightlab doctor`")

    def smoke(self, experiment: str, program: Program) -> tuple[Cell, str | None]:
        """A cell that has tried a program out, and why the program failed there, or None.

        Raises SandboxError when the environment failed repeatedly.
        """
        for pause in PAUSES:
            try:
                return self._smoked(program)
            except SandboxError as fault:
                self.log("fault", str(fault)[:500], experiment)
            time.sleep(pause)
        return self._smoked(program)

    def _smoked(self, program: Program) -> tuple[Cell, str | None]:
        cell = self.bench.open()
        return cell, self.bench.smoke(cell, program)

    def _train(
        self, row: Trial, program: Program, rung: Rung, started: float, watch: Watch | None
    ) -> Trial:
        if watch is not None:
            watch.restart()

        def hear(point: Mapping[str, object]) -> None:
            progress = point.get("progress")
            if isinstance(progress, float):
                self.board.progress(row.experiment, progress)
            if watch is not None:
                watch.hear(point)

        try:
            cell = self.cells.pop(row.experiment, None) if row.arm is Arm.CANDIDATE else None
            cell = cell or self.bench.open()
            run = self.bench.train(cell, program, rung, row.seed, hear)
            measurement = self.bench.measure(
                program,
                run,
                Split.SEARCH,
                row.seed,
                fresh_checker=row.purpose is not Purpose.SCREEN
                or self.foreign_author(row.experiment) is not None,
            )
        except SandboxError as fault:
            run = Run(ending=Ending.LOST, tier=self.bench.sandbox.tier, reason=str(fault)[:500])
            measurement = None
        artifacts = self._store(run, row.purpose, watch)
        total = time.monotonic() - started
        trials.discard(run)
        done = self.ledger.finish_trial(
            row, run, measurement, total_seconds=total, artifacts=artifacts
        )
        if CHECKUP in artifacts and run.ending is Ending.FINISHED:
            self.log("audit", f"{row.id} looked hopeless and was finished to audit the abort rule",
                     row.experiment)  # fmt: skip
        elif run.ending is Ending.ABORTED:
            self.log("abort", f"{row.id}: {run.reason}", row.experiment)
        return done

    def _store(self, run: Run, purpose: Purpose, watch: Watch | None) -> dict[str, Artifact]:
        evidence = watch.evidence() if watch else None
        kept = {CHECKUP: self.ledger.artifacts.put_bytes(evidence)} if evidence else {}
        if run.outputs is None:
            return kept
        names = [*trials.SELF_REPORTED, PROBES]
        names += self.bench.trained if purpose in KEPT else []
        there = [name for name in names if (run.outputs / name).is_file()]
        files = {name: self.ledger.artifacts.put_file(run.outputs / name) for name in there}
        return {**kept, **files}
