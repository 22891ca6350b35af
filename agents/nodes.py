"""What each node of an experiment's graph does; :mod:`nightlab.agents.graph` wires them.

A node may run twice after a crash: whatever it writes is keyed in the ledger, so the second time
changes nothing. It returns only what it changed.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from langgraph.errors import GraphDrained

from nightlab.agents import (
    approval,
    catalogue,
    diagnose,
    fair,
    judge,
    lessons,
    propose,
    reflect,
    vet,
)
from nightlab.agents.author.write import Authors
from nightlab.agents.decide import Decider
from nightlab.agents.early import Listener
from nightlab.agents.judge import Confirmation
from nightlab.agents.lab import Lab
from nightlab.agents.policy.interface import Decision
from nightlab.agents.promises import PAIRS
from nightlab.agents.propose import Proposal, Refusal
from nightlab.agents.question import UNANSWERED
from nightlab.agents.round import Round
from nightlab.agents.rungs import Rungs
from nightlab.evals.abort import AbortRule
from nightlab.evals.statistics import Judgement, Screening
from nightlab.memory.records import Arm, Estimate, Experiment, Trial
from nightlab.vocabulary import Ending, Program, Verdict


@dataclass
class Nodes:
    """The context every node receives."""

    lab: Lab
    decider: Decider
    authors: Sequence[str] = field(default=("catalogue",))
    writers: Authors | None = None
    """Authors that are language models."""
    stopping: threading.Event = field(default_factory=threading.Event)
    abort_rule: AbortRule = field(default_factory=AbortRule)
    listener: Listener = field(init=False)
    rungs: Rungs = field(init=False)

    def __post_init__(self) -> None:
        self.listener = Listener(self.lab, self.abort_rule)
        self.rungs = Rungs(self.lab)

    def decide(self, state: Round) -> Round:
        """The policy picks a parent, an author, a part and how bold to be."""
        experiment = state["experiment"]
        self.lab.board.show(experiment, "deciding")
        decision = self.decider.decide(experiment)
        edits = " ".join(f"{part}={variant}" for part, variant in decision.edits)
        self.lab.board.show(experiment, "proposing", f"{decision.parent} + {edits}")
        return {"verdict": "", "screens": 0, "confirmation": 0, "pairs": 0}

    def propose(self, state: Round) -> Round:
        """The author turns the decision into a program."""
        experiment = state["experiment"]
        decision = self.decider.decide(experiment)
        if self.writers is None or decision.author not in self.writers.models:
            parent = self.lab.program_of(decision.parent)
            return self._store(experiment, decision, propose.from_catalogue(parent, decision))
        if self.lab.ledger.experiment(experiment).program is not None:
            return {}
        made = self.writers.propose(experiment, decision, self._check(decision))
        return self._store(experiment, decision, made)

    def _store(self, experiment: str, decision: Decision, proposal: Proposal | Refusal) -> Round:
        if isinstance(proposal, Refusal):
            if self.stopping.is_set() and proposal.reason.startswith(UNANSWERED):
                raise GraphDrained("stopped while a model was asked")
            return {"verdict": Verdict.INVALID, "reason": proposal.reason}
        parent = self.lab.program_of(decision.parent)
        stored = self.lab.ledger.put_program(
            proposal.program,
            tree_hash=catalogue.tree_hash(proposal.program),
            parent=parent.id,
            origin=decision.author,
        )
        self.lab.ledger.set_proposal(
            experiment,
            program=stored.id,
            parent=decision.parent,
            author=decision.author,
            operator=proposal.operator,
            part=proposal.part,
            hypothesis=proposal.hypothesis,
            edits=proposal.edits,
            lines_added=proposal.lines_added,
            lines_removed=proposal.lines_removed,
        )
        return {}

    def vet(self, state: Round) -> Round:
        """Cheap refusals: text first, then a smoke test inside the sandbox it will train in."""
        experiment = state["experiment"]
        self.lab.board.show(experiment, "vetting")
        decision = self.decider.decide(experiment)
        while True:
            program = self.lab.program_of(experiment)
            if reason := self._check(decision)(experiment, program):
                return {"verdict": Verdict.INVALID, "reason": reason}
            if reason := self._approval(experiment, program):
                return {"verdict": Verdict.INVALID, "reason": reason}
            cell, reason = self.lab.smoke(experiment, program)
            if reason is None:
                self.lab.cells[experiment] = cell
                return {}
            cell.close()
            again = self._repaired(experiment, decision, reason)
            if again is None:
                return {"verdict": Verdict.INVALID, "reason": f"smoke test: {reason}"}
            if again:
                return again

    def _repaired(self, experiment: str, decision: Decision, problem: str) -> Round | None:
        """What came of asking for another version: empty if there is one, None if not asked."""
        if self.writers is None or decision.author not in self.writers.models:
            return None
        made = self.writers.repair(experiment, decision, problem, self._check(decision))
        return None if made is None else self._store(experiment, decision, made)

    def _approval(self, experiment: str, program: Program) -> str | None:
        """Hold code that a model wrote until a person approves it; why it is refused, or None."""
        asked = self.lab.campaign.settings.get("approval")
        if not asked or self.writers is None or not self.writers.wrote(experiment):
            return None
        self.lab.board.show(experiment, "waiting for approval")
        word = approval.wait(self.lab, experiment, program, self.stopping)
        if word is approval.Word.STOPPED:
            raise GraphDrained(word)
        return None if word is approval.Word.YES else word.value

    def _hand(self, experiment: str, parent: str) -> str | None:
        """The first model that wrote code on the way from the baseline to this program."""
        if self.writers is None:
            return self.lab.foreign_author(parent)
        line = [*(e.id for e in self.lab.ledger.lineage(parent)), experiment]
        wrote = [name for name in line if self.writers.wrote(name)]
        return (self.lab.ledger.experiment(wrote[0]).author or "a model") if wrote else None

    def _check(self, decision: Decision) -> Callable[[str, Program], str | None]:
        """Why a program of this decision is refused on sight."""

        def check(experiment: str, program: Program) -> str | None:
            tier, hand = self.lab.bench.sandbox.tier, self._hand(experiment, decision.parent)
            if hand and (reason := vet.refuse_tier(tier, hand, unsafe=self.lab.unsafe)):
                return reason
            return self._refuse_text(experiment, self.lab.program_of(decision.parent), program)

        return check

    def _refuse_text(self, experiment: str, parent: Program, program: Program) -> str | None:
        if reason := vet.refuse(parent, program, vet.own_imports(self.lab.bench.task)):
            return reason
        first = self.lab.ledger.seen(self.lab.campaign.id, catalogue.tree_hash(program))
        return f"the same program as {first}" if first not in (None, experiment) else None

    def screen(self, state: Round) -> Round:
        """One more screening trial on the low rung."""
        experiment, index = state["experiment"], state["screens"]
        self.lab.board.show(experiment, f"screening on {self.lab.plan.screen.name}")
        watch = None
        if index == 0:
            watch = self.listener.watch(experiment, judge.screening_seed(self.lab, index))
        trial = judge.screening_trial(self.lab, experiment, index, watch)
        if trial.run is not None and trial.run.ending is Ending.ABORTED:
            return {"verdict": Verdict.DISCARDED, "reason": f"aborted: {trial.run.reason}"}
        if failed := judge.failure(trial):
            verdict = Verdict.REJECTED if failed.rejected else Verdict.FAILED
            return {"verdict": verdict, "reason": failed.reason}
        self.lab.promises.screening(experiment, index + 1)
        return {"screens": index + 1}

    def judge(self, state: Round) -> Round:
        """The statistics decide what comes next."""
        if state["confirmation"]:
            return self._judge_confirmation(state)
        experiment, count = state["experiment"], state["screens"]
        against = self.lab.incumbent()
        outcome = judge.screening(self.lab, experiment, against, count, self.rungs.rule())
        if outcome is not Screening.DISCARD and (unfair := self._overspent(experiment, against)):
            return {"verdict": Verdict.FAILED, "reason": unfair}
        if outcome is Screening.REPEAT:
            return {}
        trials = self.lab.ledger.trials(experiment=experiment)
        if outcome is Screening.PROMOTE and (broken := judge.broken_constraints(self.lab, trials)):
            return {"verdict": Verdict.DISCARDED, "reason": f"breaks {'; '.join(broken)}"}
        if outcome is Screening.DISCARD:
            return {"verdict": Verdict.DISCARDED, "reason": f"no better than {against}"}
        return self._challenge(state)

    def _overspent(self, experiment: str, against: str) -> str | None:
        """Why the first screening trial is no fair comparison; every device but the CPU is timed
        by the clock and has no such count."""
        if self.lab.bench.device != "cpu":
            return None
        mine, theirs = (judge.screening_trial(self.lab, e, 0) for e in (experiment, against))
        return fair.overspent_screening(mine, theirs, self.lab.plan.screen)

    def _challenge(self, state: Round) -> Round:
        """Wait for the turn to challenge, then screen again against whoever is incumbent by now."""
        experiment = state["experiment"]
        self.lab.board.show(experiment, "waiting to challenge the incumbent")
        self.lab.challenge(experiment)
        against = self.lab.incumbent()
        rule = self.rungs.rule()
        again = judge.screening(self.lab, experiment, against, state["screens"], rule)
        if again is Screening.DISCARD:
            reason = f"better than the incumbent of its time, no better than {against}"
            return {"verdict": Verdict.SCREENED, "reason": reason}
        if not self.lab.may_confirm(experiment):
            reason = f"better than {against} on one rung; no budget left to confirm it"
            return {"verdict": Verdict.SCREENED, "reason": reason}
        self.lab.promises.confirming(experiment, 0)
        return {"against": against, "confirmation": self.lab.next_confirmation(experiment)}

    def confirm(self, state: Round) -> Round:
        """One more fresh pair on the confirmation rung, incumbent re-run beside it."""
        experiment, pair = state["experiment"], state["pairs"] + 1
        self.lab.challenge(experiment)
        self.lab.promises.confirming(experiment, state["pairs"])
        rung = self.lab.plan.confirm.name
        doing = f"confirming on {rung}, pair {pair}, against {state['against']}"
        self.lab.board.show(experiment, doing)
        judge.run_pair(self.lab, _confirmation(state), state["pairs"])
        self.lab.promises.confirming(experiment, pair)
        return {"pairs": pair}

    def _judge_confirmation(self, state: Round) -> Round:
        confirmation = _confirmation(state)
        for trial in self._candidate_trials(confirmation):
            if failed := judge.failure(trial):
                verdict = Verdict.REJECTED if failed.rejected else Verdict.FAILED
                return {"verdict": verdict, "reason": f"while confirming: {failed.reason}"}
        match judge.paired_test(self.lab, confirmation).judgement:
            case Judgement.CONTINUE:
                if state["pairs"] < PAIRS or self.lab.may_go_on(
                    state["experiment"], state["pairs"]
                ):
                    return {}
                reason = f"undecided against {state['against']}; no budget left for another pair"
                return {"verdict": Verdict.SCREENED, "reason": reason}
            case Judgement.DROP:
                reason = f"not better than {state['against']} on fresh seeds"
                return {"verdict": Verdict.DISCARDED, "reason": reason}
            case Judgement.KEEP:
                return self._look_at_holdout(confirmation)

    def _look_at_holdout(self, confirmation: Confirmation) -> Round:
        trials = self._candidate_trials(confirmation)
        if broken := judge.broken_constraints(self.lab, trials):
            return {"verdict": Verdict.DISCARDED, "reason": f"breaks {'; '.join(broken)}"}
        pairs = judge.pairs_of(judge.confirmation_trials(self.lab, confirmation))
        unfair = fair.overspent_confirmation(pairs, self.lab.plan.confirm)
        if unfair and self.lab.bench.device == "cpu":
            return {"verdict": Verdict.DISCARDED, "reason": unfair}
        self.lab.board.show(confirmation.experiment, "looking at the hold-out")
        seen = judge.confirmed_holdout(self.lab, confirmation)
        if seen is None:
            reason = "its hold-out score could not be measured"
            return {"verdict": Verdict.FAILED, "reason": reason}
        if against := fair.disagreement(judge.estimate(self.lab, confirmation), seen):
            return {"verdict": Verdict.DISCARDED, "reason": against}
        reason = f"better than {confirmation.against} on fresh seeds and on the hold-out"
        return {"verdict": Verdict.CONFIRMED, "reason": reason}

    def _candidate_trials(self, confirmation: Confirmation) -> list[Trial]:
        trials = judge.confirmation_trials(self.lab, confirmation)
        return [t for t in trials if t.arm is Arm.CANDIDATE]

    def diagnose(self, state: Round) -> Round:
        """Spectra beside the incumbent's: advisory, whatever the verdict."""
        experiment, verdict = state["experiment"], Verdict(state["verdict"])
        self.lab.board.show(experiment, "diagnosing")
        confirmed = bool(state.get("pairs"))
        against = state["against"] if confirmed else self.lab.incumbent()
        rung = self.lab.plan.confirm if confirmed else self.lab.plan.screen
        diagnose.diagnose(self.lab, experiment, against, verdict, rung.name)
        self.lab.board.show(experiment, "recording")
        return {}

    def record(self, state: Round) -> Round:
        """The verdict and its numbers, in one transaction; then the next challenger may go."""
        experiment, verdict = state["experiment"], Verdict(state["verdict"])
        if cell := self.lab.cells.pop(experiment, None):
            cell.close()
        numbers = None
        if state.get("confirmation"):
            numbers = self._numbers(_confirmation(state), verdict)
        confirmed = verdict is Verdict.CONFIRMED
        self.lab.ledger.conclude_experiment(
            self.lab.lease, experiment, verdict, state["reason"], numbers, incumbent=confirmed
        )
        self.lab.end_challenge(experiment)
        self.rungs.learn(experiment)
        self.decider.settle(experiment)
        if self.writers is not None:
            self.writers.done(experiment)
        return {}

    def _worded(self, row: Experiment, template: str) -> str:
        """The lesson in a model's words where one can be asked and keeps to the facts."""
        if self.writers is None or not (able := self.writers.able()):
            return template
        ledger, campaign = self.lab.ledger, row.campaign
        facts = reflect.facts(row, template)
        related = lessons.relevant(ledger, campaign, facts)
        made = reflect.written(
            self.writers.models[row.author if row.author in able else able[0]],
            lambda call: ledger.record_call(campaign, call, experiment=row.id),
            facts,
            related,
        )
        if isinstance(made, str):
            self.lab.log("lesson", f"the template's words stand: {made}", row.id)
            return template
        for old in related:
            if old.id in made.retired:
                lessons.retire(ledger, campaign, old, f"replaced after {row.id}")
        return made.text

    def _numbers(self, confirmation: Confirmation, verdict: Verdict) -> Estimate:
        numbers = judge.estimate(self.lab, confirmation)
        if verdict is not Verdict.CONFIRMED:
            return numbers
        seen = judge.confirmed_holdout(self.lab, confirmation)
        if seen is None:
            return numbers
        return replace(
            numbers,
            holdout=seen.challenger,
            holdout_gain=seen.mean,
            holdout_low=seen.low,
            holdout_high=seen.high,
        )

    def reflect(self, state: Round) -> Round:
        """A lesson, if there is one."""
        row = self.lab.ledger.experiment(state["experiment"])
        every = self.lab.ledger.experiments(self.lab.campaign.id)
        siblings = [e for e in every if e.operator == row.operator and e.number < row.number]
        if text := reflect.lesson(row, siblings, self.lab.objective.metric):
            evidence = [row.id, *(s.id for s in siblings)]
            kept = self.lab.ledger.lessons(self.lab.campaign.id)
            known = {lesson.text for lesson in kept}
            taught = {k.experiments[0] for k in kept if len(k.experiments) == len(evidence)}
            if text not in known and row.id not in taught:
                text = self._worded(row, text)
                self.lab.ledger.add_lesson(self.lab.campaign.id, text, evidence)
        standing = lessons.active(self.lab.ledger, row.campaign)
        for old in reflect.contradicted(row, standing, {e.id: e for e in every}):
            lessons.retire(self.lab.ledger, row.campaign, old, f"contradicted by {row.id}")
        self.lab.board.clear(row.id)
        return {}


def _confirmation(state: Round) -> Confirmation:
    return Confirmation(
        experiment=state["experiment"], against=state["against"], number=state["confirmation"]
    )
