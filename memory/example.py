"""A made-up campaign, for tests and screenshots of screens and reports.

Nothing in it was measured: the numbers are drawn from a seeded generator, and the task is called
``example`` so that nobody takes it for a result.
"""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import fmean

from nightlab.memory import example_spectra
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import (
    Arm,
    CampaignStatus,
    Decision,
    Estimate,
    Experiment,
    Lease,
    Trial,
)
from nightlab.vocabulary import (
    Budget,
    Constraint,
    Direction,
    Ending,
    Integrity,
    Measurement,
    Objective,
    Program,
    Purpose,
    Run,
    Tier,
    Verdict,
)

TRIED = {
    ("position", "rotary"): 0.55,
    ("norm", "rmsnorm"): 0.01,
    ("feed-forward", "relu2"): 0.08,
    ("optimizer", "muon"): 0.15,
    ("attention", "qk-norm"): 0.03,
    ("schedule", "trapezoid"): 0.0,
    ("embedding", "tied"): -0.02,
    ("recipe", "batch/2"): 0.06,
    ("attention", "sliding window"): -0.03,
    ("optimizer", "lion"): -0.2,
    ("block", "parallel"): -0.01,
    ("logits", "softcap"): 0.005,
}
"""(part, variant) to the true gain in bits per byte."""
RUNGS = {"small": (4.10, 0.012, 5.0), "medium": (3.50, 0.010, 20.0)}
"""Rung to the baseline's level, its noise, and its CPU seconds."""


@dataclass
class Clock:
    """A clock that moves when told to."""

    at: datetime = field(default_factory=lambda: datetime(2026, 1, 5, 22, 0, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.at

    def pass_seconds(self, seconds: float) -> None:
        """Move on."""
        self.at += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Tip:
    """The program to beat and its true gain over the baseline."""

    experiment: str
    program: Program
    gain: float


class Example:
    """Plays one campaign into a ledger whose clock is ``clock``."""

    def __init__(self, ledger: Ledger, clock: Clock, *, seed: int = 1) -> None:
        self.ledger, self.clock = ledger, clock
        self.rng = random.Random(seed)
        self.seeds = iter(range(1001, 100_000))

    def play(self, *, experiments: int = 24, gains: bool = True) -> str:
        """A whole campaign; without ``gains`` every edit is worth nothing. Returns its id."""
        campaign = self.ledger.create_campaign(
            "lower validation bits per byte without more parameters in 10 minutes",
            Objective(
                metric="val_bpb",
                direction=Direction.LOWER,
                target_percent=8.0,
                constraints=(Constraint("params", "<=", 1.0, relative=True),),
                budget=Budget(trials=200, seconds=600.0),
            ),
            task="example",
            tier=Tier.BWRAP,
            proposer="catalogue",
            seed=1,
            workers=2,
            settings={"corpus_hash": "9f2c4e", "task_hash": "77ab01"},
        )
        lease = self.ledger.acquire_lease(campaign.id, "example:1", seconds=1e6)
        tip = self._baseline(lease)
        tried = list(TRIED.items())
        for number in range(experiments):
            (part, variant), gain = tried[number % len(tried)]
            tip = self._attempt(lease, tip, part, variant, gain if gains else 0.0)
        self._close(lease, tip)
        self.ledger.finish_campaign(lease, CampaignStatus.FINISHED, "the budget is spent")
        self.ledger.release_lease(lease)
        return campaign.id

    def _baseline(self, lease: Lease) -> Tip:
        program = Program({"model.py": "position = 'learned'\nwidth = 64\ndepth = 3\n"})
        self.ledger.put_program(program, tree_hash=f"t{program.id}", origin="baseline")
        experiment = self.ledger.begin_experiment(lease)
        self.ledger.set_proposal(experiment.id, program=program.id, parent=None, author="baseline")
        tip = Tip(experiment.id, program, 0.0)
        for rung in RUNGS:
            for _ in range(4):
                self._trial(lease, experiment.id, tip, rung, next(self.seeds), Purpose.NOISE)
        self.ledger.conclude_experiment(
            lease, experiment.id, Verdict.CONFIRMED, "the baseline", incumbent=True
        )
        return tip

    def _close(self, lease: Lease, tip: Tip) -> None:
        """The best program on the baseline's seeds, both looked at on the hold-out."""
        base = f"{lease.campaign}-0"
        if tip.experiment == base:
            return
        for trial in self.ledger.trials(experiment=base):
            if trial.rung == "medium":
                audit = self._trial(lease, tip.experiment, tip, "medium", trial.seed, Purpose.AUDIT)
                for side in (trial, audit):
                    if side.measurement:
                        look = side.measurement.metrics["val_bpb"] + self.rng.gauss(0.02, 0.002)
                        held = Measurement(metrics={"val_bpb": look})
                        self.ledger.record_holdout(side.id, held)

    def _attempt(self, lease: Lease, tip: Tip, part: str, variant: str, gain: float) -> Tip:
        edit = f"{part}={variant}"
        line = f"{part.replace('-', '_')} = '{variant}'\n"
        text = tip.program.files["model.py"] + line
        new = Tip("", Program({"model.py": text}), tip.gain + gain)
        experiment = self.ledger.begin_experiment(lease)
        self._decide(experiment.id, tip.experiment, part)
        self.ledger.put_program(
            new.program, tree_hash=f"t{new.program.id}", parent=tip.program.id, origin="catalogue"
        )
        self.ledger.set_proposal(
            experiment.id,
            program=new.program.id,
            parent=tip.experiment,
            author="catalogue",
            operator=edit,
            part=part,
            hypothesis=f"{variant} suits a model this small better",
            edits=[edit],
            lines_added=1,
        )
        if line in tip.program.files["model.py"] or part == "embedding":
            reason = (
                "not causal: logits at 5 change with byte 9"
                if part == "embedding"
                else "duplicate of an earlier program"
            )
            self.ledger.conclude_experiment(lease, experiment.id, Verdict.INVALID, reason)
            return tip
        return self._judge(lease, experiment, tip, Tip(experiment.id, new.program, new.gain))

    def _judge(self, lease: Lease, experiment: Experiment, tip: Tip, new: Tip) -> Tip:
        seed, name = next(self.seeds), experiment.id
        crash = self.rng.random() < 0.1
        screened = self._trial(
            lease, name, new, "small", seed, Purpose.SCREEN, ending=_ending(crash)
        )
        if crash:
            reason = screened.run.reason if screened.run else ""
            self.ledger.conclude_experiment(lease, name, Verdict.FAILED, reason)
            return tip
        level = RUNGS["small"][0] - tip.gain
        gain = level - screened.measurement.metrics["val_bpb"] if screened.measurement else 0.0
        if gain < 2 * RUNGS["small"][1]:
            estimate = Estimate(gain=gain, pairs=1, rung="small", against=tip.experiment)
            words = f"no better on the low rung ({gain:+.3f})"
            self.ledger.conclude_experiment(lease, name, Verdict.DISCARDED, words, estimate)
            return tip
        estimate = self._confirm(lease, name, tip, new)
        kept = (estimate.gain_low or 0.0) > 0
        verdict = Verdict.CONFIRMED if kept else Verdict.SCREENED
        words = f"{estimate.gain:+.3f} on {estimate.pairs} fresh pairs"
        self.ledger.conclude_experiment(lease, name, verdict, words, estimate, incumbent=kept)
        return new if kept else tip

    def _confirm(self, lease: Lease, experiment: str, tip: Tip, new: Tip) -> Estimate:
        gains, looks = [], []
        for _ in range(4):
            seed, purpose = next(self.seeds), Purpose.CONFIRM
            ours = self._trial(lease, experiment, new, "medium", seed, purpose)
            theirs = self._trial(lease, experiment, tip, "medium", seed, purpose, Arm.INCUMBENT)
            pair = [trial.measurement for trial in (theirs, ours)]
            values = [m.metrics["val_bpb"] for m in pair if m]
            gains.append(values[0] - values[1])
            look = Measurement(metrics={"val_bpb": values[1] + 0.02})
            looks.append(self.ledger.record_holdout(ours.id, look).metrics["val_bpb"])
        self.ledger.record_spectra(example_spectra.rows(ours, tip.experiment, new.gain - tip.gain))
        gain, half = fmean(gains), 0.022
        return Estimate(
            gain=gain,
            gain_low=gain - half,
            gain_high=gain + half,
            pairs=len(gains),
            rung="medium",
            against=tip.experiment,
            alpha_spent=0.01,
            holdout=fmean(looks),
            holdout_gain=gain - 0.002,
            holdout_low=gain - 0.002 - half,
            holdout_high=gain - 0.002 + half,
        )

    def _trial(
        self,
        lease: Lease,
        experiment: str,
        tip: Tip,
        rung: str,
        seed: int,
        purpose: Purpose,
        arm: Arm = Arm.CANDIDATE,
        ending: Ending = Ending.FINISHED,
    ) -> Trial:
        level, noise, cpu = RUNGS[rung]
        trial = self.ledger.begin_trial(
            lease, experiment, tip.program.id, rung=rung, seed=seed, purpose=purpose, arm=arm
        )
        self.clock.pass_seconds(cpu + 1.2)
        run = Run(
            ending=ending,
            tier=Tier.BWRAP,
            wall_seconds=cpu + 0.4,
            cpu_seconds=cpu,
            peak_memory_bytes=310 << 20,
            startup_seconds=0.1,
            exit_code=0 if ending is Ending.FINISHED else 1,
            reason="" if ending is Ending.FINISHED else "RuntimeError: shapes do not match",
        )
        value = level - tip.gain + self.rng.gauss(0, noise)
        metrics = {"val_bpb": value, "params": 199_424.0}
        measured = Measurement(metrics=metrics, integrity=Integrity.CLEAN, scoring_seconds=0.3)
        finished = ending is Ending.FINISHED
        return self.ledger.finish_trial(
            trial, run, measured if finished else None, total_seconds=cpu + 1.2
        )

    def _decide(self, experiment: str, parent: str, part: str) -> None:
        share = 1 / len(TRIED)
        for head, action in (("parent", parent), ("part", part)):
            self.ledger.record_decision(
                experiment,
                Decision(
                    head=head,
                    action=action,
                    features={"gain": [0.0]},
                    mask=[True],
                    distribution={action: share},
                    policy="thompson",
                    version="1",
                    propensity=share,
                    seed=7,
                ),
            )


def _ending(crash: bool) -> Ending:
    return Ending.CRASHED if crash else Ending.FINISHED
