"""The supervisor: owns a campaign's budget, workers and stopping; one graph run per experiment.

It is plain code around the graph: a worker per place runs one experiment after another, the main
thread renews the lease, listens for signals and decides when enough is enough. The ledger's rows
are the truth; a supervisor that was killed is followed by another that takes up the rows.
"""

import contextlib
import os
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import psutil
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl

from nightlab.agents import catalogue, closing, judge, past
from nightlab.agents.author.write import Authors
from nightlab.agents.decide import Decider, menu
from nightlab.agents.graph import Graph, build
from nightlab.agents.lab import Lab
from nightlab.agents.nodes import Nodes
from nightlab.agents.policy.interface import Memory, Policy
from nightlab.errors import NightlabError, UsageError
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import CampaignStatus, Lease
from nightlab.vocabulary import Purpose, Verdict

LEASE_SECONDS = 60.0
POLL_SECONDS = 0.5
RECURSION_LIMIT = 200
PATIENCE = 20
"""Experiments in a row that could not even be proposed before the campaign gives up."""


def owner() -> str:
    """Who holds a campaign, in words a person can act on."""
    return f"{socket.gethostname()}:{os.getpid()}"


def take(ledger: Ledger, campaign: str) -> Lease:
    """Become the campaign's supervisor; at once where the one before died on this host.

    Raises:
        UsageError: another supervisor holds it.
    """
    holder = ledger.holder(campaign)
    if holder is not None:
        host, _, process = holder.owner.rpartition(":")
        if host == socket.gethostname() and not psutil.pid_exists(int(process)):
            ledger.release_lease(holder)
    return ledger.acquire_lease(campaign, owner(), seconds=LEASE_SECONDS)


MakeNodes = Callable[
    [Lab, Decider, Sequence[str], Authors | None, threading.Event],
    Nodes,
]


@dataclass
class Supervisor:
    """Runs one campaign to its end."""

    lab: Lab
    policy: Policy
    checkpoints: Path
    authors: tuple[str, ...] = ("catalogue",)
    writers: Authors | None = None
    """Those of the authors that are language models."""
    stopping: threading.Event = field(default_factory=threading.Event)
    hush: threading.Event = field(default_factory=threading.Event)
    """Set when nothing more is to be asked of the models; what they are saying is given up."""
    most_experiments: int | None = None
    """Ends after so many, for a benchmark; None leaves that to the budget."""
    make_nodes: MakeNodes = Nodes
    _control: RunControl = field(default_factory=RunControl)
    _launched: int = 0

    def run(self) -> CampaignStatus:
        """Until the budget is spent, the target is met, or someone says stop.

        Raises:
            NightlabError: our side failed; the campaign is marked failed and can be resumed.
        """
        lab = self.lab
        try:
            with self._signals(), self._heartbeat():
                status, reason = self._run()
        except NightlabError as fault:
            lab.ledger.finish_campaign(lab.lease, CampaignStatus.FAILED, str(fault)[:500])
            raise
        finally:
            lab.bench.drain()
        lab.ledger.finish_campaign(lab.lease, status, reason)
        return status

    def _run(self) -> tuple[CampaignStatus, str]:
        lab = self.lab
        lab.board.stage = "measuring the noise floor"
        baseline(lab)
        if self.stopping.is_set():
            return CampaignStatus.STOPPED, "stopped by a signal"
        lab.board.stage = "searching"
        with _graph(self.checkpoints) as graph:
            known = menu(self.authors)
            home = self.checkpoints.parent
            earlier = past.taken_along(lab.ledger, lab.campaign, self.policy, known.version)
            if earlier:
                lab.log("learn", f"takes {len(earlier)} decisions of earlier campaigns along")
            memory = Memory(past.remembered(lab.ledger, lab.campaign))
            if memory.experiments:
                lab.log("learn", f"remembers {memory.experiments} experiments on this task")
            decider = Decider(lab, self.policy, known, self._unavailable, home, earlier, memory)
            nodes = self.make_nodes(lab, decider, self.authors, self.writers, self.stopping)
            reason = self._search(graph, nodes)
        if self.stopping.is_set():
            return CampaignStatus.STOPPED, "stopped; `nightlab resume` goes on"
        lab.board.stage = "comparing the winner with the baseline"
        closing.compare(lab)
        return CampaignStatus.FINISHED, reason

    def _unavailable(self) -> Set[str]:
        """Authors that can no longer be asked."""
        return self.writers.closed if self.writers is not None else frozenset()

    def _search(self, graph: Graph, nodes: Nodes) -> str:
        """Keep every place busy until there is a reason to stop; returns that reason."""
        unfinished = [
            e.id
            for e in self.lab.ledger.experiments(self.lab.campaign.id, under_way=True)
            if e.number > 0
        ]
        running: set[Future[None]] = set()
        reason = ""
        with ThreadPoolExecutor(self.lab.plan.workers, thread_name_prefix="worker") as pool:
            while True:
                reason = reason or self._reason_to_stop()
                while not reason and len(running) < self.lab.plan.workers:
                    if not unfinished and not self.lab.may_begin():
                        reason = "" if running else "its trials are spent"
                        break
                    experiment = unfinished.pop(0) if unfinished else self._begin()
                    self.lab.promises.screening(experiment)
                    running.add(pool.submit(self._experiment, graph, nodes, experiment))
                    reason = self._reason_to_stop()
                if reason:
                    self.hush.set()
                if not running:
                    return reason
                done, running = wait(running, POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()

    def _begin(self) -> str:
        return self.lab.ledger.begin_experiment(self.lab.lease).id

    def _experiment(self, graph: Graph, nodes: Nodes, experiment: str) -> None:
        config: RunnableConfig = {
            "configurable": {"thread_id": f"{self.lab.campaign.id}:{experiment}"},
            "recursion_limit": RECURSION_LIMIT,
        }
        known = graph.get_state(config).created_at is not None
        try:
            graph.invoke(
                None if known else {"experiment": experiment},
                config,
                context=nodes,
                durability="sync",
                control=self._control,
            )
        except GraphDrained:
            self.lab.log("drain", "stopped between two steps; resume goes on", experiment)
        finally:
            self.lab.end_challenge(experiment)
            self.lab.promises.end(experiment)
            self.lab.board.clear(experiment)
            if cell := self.lab.cells.pop(experiment, None):
                cell.close()

    def _reason_to_stop(self) -> str:
        lab = self.lab
        if self.stopping.is_set():
            return "stopped"
        if any(d.kind == "stop" for d in lab.ledger.directives(lab.campaign.id, unseen=True)):
            self.stop("a directive")
            return "stopped"
        begun = lab.ledger.experiments(lab.campaign.id)
        if self.most_experiments is not None and len(begun) > self.most_experiments:
            return "its experiments are done"
        # Whatever is under way screens at least once more: leave room for it and for the closing.
        if lab.seconds_left() <= lab.closing_seconds() + lab.trial_seconds(lab.plan.screen):
            return "its time is spent"
        if lab.money_left() <= 0:
            return "its budget of USD, tokens or GPU time is spent"
        if self._unavailable() >= set(self.authors):
            return "no author is left that can be asked"
        if closing.target_met(lab):
            return "its target is met"
        recent = begun[-PATIENCE:]
        if len(recent) == PATIENCE and all(e.verdict is Verdict.INVALID for e in recent):
            return f"the last {PATIENCE} experiments were all invalid"
        return ""

    def stop(self, by: str) -> None:
        """Begin no new experiment, and let the running ones end at their next step."""
        if not self.stopping.is_set():
            self.stopping.set()
            self.hush.set()
            self.lab.board.stage = f"stopping ({by}); again to end at once"
            self._control.request_drain(by)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """First SIGINT or SIGTERM drains, the second ends at once; the ledger survives both."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            del frame
            if self.stopping.is_set():
                with contextlib.suppress(Exception):
                    self.lab.bench.sandbox.close()
                os._exit(130)
            self.stop(signal.Signals(number).name)

        old = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        """Renew the lease while the block runs; losing it stops the campaign."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(LEASE_SECONDS / 4):
                try:
                    self.lab.ledger.renew_lease(self.lab.lease, seconds=LEASE_SECONDS)
                except NightlabError as lost:
                    self.stop(str(lost))
                    return

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def _graph(checkpoints: Path) -> Iterator[Graph]:
    """The compiled graph over its durable checkpoints."""
    connection = sqlite3.connect(checkpoints, check_same_thread=False, timeout=30)
    try:
        yield build(SqliteSaver(connection))
    finally:
        connection.close()


def baseline(lab: Lab) -> None:
    """Experiment 0: the task's program, repeated on every rung in use; idempotent."""
    program = lab.bench.task.baseline
    experiments = lab.ledger.experiments(lab.campaign.id)
    first = experiments[0].id if experiments else lab.ledger.begin_experiment(lab.lease).id
    if lab.ledger.experiment(first).program is None:
        stored = lab.ledger.put_program(
            program, tree_hash=catalogue.tree_hash(program), origin="baseline"
        )
        lab.ledger.set_proposal(
            first, program=stored.id, parent=None, author="baseline", hypothesis="the baseline"
        )
    lab.board.show(first, "training", "the baseline, repeated")
    jobs = [
        (rung, seed)
        for rung in lab.plan.rungs
        for seed in lab.seeds(Purpose.NOISE, lab.plan.noise_trials)
    ]
    with ThreadPoolExecutor(lab.plan.workers, thread_name_prefix="noise") as pool:
        running = [pool.submit(lab.trial, first, r, s, Purpose.NOISE) for r, s in jobs]
        catalogue.current(program)  # reads the whole catalogue once, while the baseline trains
        for done in running:
            trial = done.result()
            if failed := judge.failure(trial):
                raise UsageError(
                    f"the baseline of task {lab.bench.task.name} does not run: {failed.reason}; "
                    f"mend its program; what it printed: nightlab show {trial.id}"
                )
    if lab.ledger.experiment(first).verdict is None:
        floor = judge.noise_floor(lab, lab.plan.confirm)
        reason = f"baseline {floor.mean:.4f}, seed-to-seed {floor.sd:.4f} on {floor.rung}"
        lab.ledger.conclude_experiment(lab.lease, first, Verdict.CONFIRMED, reason, incumbent=True)
    lab.board.clear(first)
