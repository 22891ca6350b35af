"""The life of a trial under crashes and takeovers, against a model in a dictionary."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nightlab.errors import LedgerError, UsageError
from nightlab.memory.example import Clock
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Lease, Trial, TrialStatus
from nightlab.vocabulary import (
    Direction,
    Ending,
    Measurement,
    Objective,
    Program,
    Purpose,
    Run,
    Tier,
)


@dataclass
class Known:
    """What the model knows about one trial."""

    attempt: int
    token: int
    status: TrialStatus
    value: float | None = None


class Lifecycle(RuleBasedStateMachine):
    """Supervisors come, begin trials, finish them late or twice, lose them, and are replaced."""

    begun = Bundle("begun")

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        folder = Path(self.stack.enter_context(TemporaryDirectory()))
        self.clock = Clock()
        url = f"sqlite:///{folder / 'ledger.db'}"
        self.ledger = self.stack.enter_context(Ledger.open(url, folder, clock=self.clock))
        self.known: dict[int, Known] = {}
        self.leases: list[Lease] = []

    def teardown(self) -> None:
        self.stack.close()

    @initialize()
    def create(self) -> None:
        objective = Objective(metric="val_bpb", direction=Direction.LOWER)
        self.ledger.create_campaign("g", objective, task="t", tier="process", proposer="c", seed=1)
        self.leases = [self.ledger.acquire_lease("c1", "s1", seconds=60)]
        program = Program({"model.py": "x\n"})
        self.program = self.ledger.put_program(program, tree_hash="t", origin="baseline").id
        self.experiment = self.ledger.begin_experiment(self.leases[0]).id

    @rule(target=begun, seed=st.integers(1, 3), holder=st.integers(-2, -1))
    def begin(self, seed: int, holder: int) -> Trial | None:
        lease = self.leases[max(holder, -len(self.leases))]
        if lease.token != self.leases[-1].token:
            with pytest.raises(LedgerError, match="no longer holds"):
                self._begin(lease, seed)
            return None
        trial, known = self._begin(lease, seed), self.known.get(seed)
        if known and known.status is TrialStatus.FINISHED:
            assert trial.measurement is not None
            assert trial.measurement.metrics["val_bpb"] == known.value
            assert trial.attempt == known.attempt
        else:
            attempt = known.attempt + 1 if known else 1
            assert (trial.attempt, trial.status) == (attempt, TrialStatus.RUNNING)
            self.known[seed] = Known(attempt, lease.token, TrialStatus.RUNNING)
        return trial

    @rule(trial=begun, value=st.floats(1, 8), lost=st.booleans())
    def finish(self, trial: Trial | None, value: float, lost: bool) -> None:
        if trial is None:
            return
        known = self.known[trial.seed]
        newest = (known.attempt, known.token) == (trial.attempt, trial.token)
        accepted = newest and known.status is TrialStatus.RUNNING
        accepted = accepted and trial.token == self.leases[-1].token
        ending = Ending.LOST if lost else Ending.FINISHED
        run = Run(ending=ending, tier=Tier.PROCESS)
        score = Measurement(metrics={"val_bpb": value})
        if not accepted:
            with pytest.raises(LedgerError, match=r"too late|no longer holds"):
                self.ledger.finish_trial(trial, run, score, total_seconds=1.0)
            return
        self.ledger.finish_trial(trial, run, score, total_seconds=1.0)
        known.status = TrialStatus.LOST if lost else TrialStatus.FINISHED
        known.value = None if lost else value

    @rule()
    def take_over_at_once(self) -> None:
        with pytest.raises(UsageError, match="is held by"):
            self.ledger.acquire_lease("c1", "impatient", seconds=60)

    @precondition(lambda self: len(self.leases) < 4)
    @rule()
    def take_over_after_a_crash(self) -> None:
        self.clock.pass_seconds(61)
        self.leases.append(self.ledger.acquire_lease("c1", "next", seconds=60))
        abandoned = {trial.seed for trial in self.ledger.abandoned_trials(self.leases[-1])}
        running = {s for s, k in self.known.items() if k.status is TrialStatus.RUNNING}
        assert abandoned == running

    @rule()
    def renew(self) -> None:
        self.leases[-1] = self.ledger.renew_lease(self.leases[-1], seconds=60)

    @invariant()
    def the_ledger_agrees_with_the_model(self) -> None:
        if not self.leases:
            return
        found = {trial.seed: trial for trial in self.ledger.trials(campaign="c1")}
        assert {s: (t.attempt, t.status) for s, t in found.items()} == {
            s: (k.attempt, k.status) for s, k in self.known.items()
        }
        assert {s: t.value("val_bpb") for s, t in found.items()} == {
            s: k.value for s, k in self.known.items()
        }
        finished = [k for k in self.known.values() if k.status is TrialStatus.FINISHED]
        assert self.ledger.spent("c1").trials == len(finished)

    def _begin(self, lease: Lease, seed: int) -> Trial:
        return self.ledger.begin_trial(
            lease,
            self.experiment,
            self.program,
            rung="small",
            seed=seed,
            purpose=Purpose.SCREEN,
        )


@pytest.mark.parametrize("examples", [pytest.param(8), pytest.param(150, marks=pytest.mark.slow)])
def test_no_trial_is_doubled_or_lost_whatever_happens(examples: int) -> None:
    profile = settings(max_examples=examples, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(Lifecycle, settings=profile)
