"""What a model is shown of a campaign before it proposes: all from the ledger, capped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nightlab.agents import catalogue, lessons, plateau, spectra
from nightlab.agents.author.prompting import Quoting
from nightlab.agents.lab import Lab
from nightlab.agents.policy.interface import Decision
from nightlab.memory.records import Experiment
from nightlab.memory.report.diff import diff
from nightlab.vocabulary import Purpose, Verdict

FILE_CHARACTERS = 40_000
DIFF_CHARACTERS = 6_000
ROWS = 6
BOLD = {
    "1": "Make one small, well-founded change.",
    "2": "Make one substantial change of mechanism.",
    "3": "Be bold: rethink the part, and whatever must change with it.",
}


@dataclass(frozen=True)
class Situation:
    """One proposal's context."""

    lab: Lab
    decision: Decision
    quoting: Quoting

    @property
    def parent(self) -> Experiment:
        return self.lab.ledger.experiment(self.decision.parent)

    def second(self) -> Experiment | None:
        """The other parent of a cross-over: the best program off the parent's line, if bold."""
        if self.decision.boldness != "3" and not self._plateau():
            return None
        line = {e.id for e in self.lab.ledger.lineage(self.parent.id)}
        good = (Verdict.CONFIRMED, Verdict.SCREENED)
        others = [
            e
            for e in self.lab.ledger.experiments(self.lab.campaign.id)
            if e.verdict in good and e.number > 0 and e.id not in line
        ]
        return max(others, key=_rank, default=None)

    def prompt(self, answer: str) -> str:
        """The user's message: data first, the task last."""
        sections = [
            self._quote("goal", self._goal(), 2000),
            self._directives(),
            self._lessons(4000),
            self._quote("history", self._history(ROWS), 8000),
            self._quote("plateau", self._plateau(), 1000),
            self._quote("measurements", self._measurements(), 3000),
            self._quote("spectra, advisory", self._spectra(), 4000),
            self._baseline_diff(),
            *self._files(),
        ]
        return "\n\n".join([*filter(None, sections), self._task(), answer])

    def choice(self, answer: str) -> str:
        """The same for who writes no code: the parts' names instead of the program's text."""
        current = catalogue.current(self.lab.program_of(self.parent.id))
        parts = ", ".join(f"{part} {variant}" for part, variant in current.items())
        sections = [
            self._quote("goal", self._goal(), 1000),
            self._directives(),
            self._lessons(1200),
            self._quote("history", self._history(3), 2000),
            self._quote("plateau", self._plateau(), 600),
            self._quote("the program's parts", parts, 1500),
        ]
        return "\n\n".join([*filter(None, sections), answer])

    def _plateau(self) -> str:
        found = plateau.standing(self.lab)
        return str(found) if found else ""

    def _quote(self, name: str, text: str, most: int) -> str:
        return self.quoting.quote(name, text, most) if text else ""

    def _goal(self) -> str:
        objective = self.lab.objective
        rules = "; ".join(str(c) for c in objective.constraints) or "none"
        plan = self.lab.campaign.settings.get("research_plan")
        return (
            f"{self.lab.campaign.goal}\nmetric: {objective.metric}, {objective.direction} is better"
            f"\nconstraints: {rules}\ntraining budget of a screening trial: "
            f"{self.lab.plan.screen.cpu_seconds:g} CPU seconds on one core"
            f"\nbudget left: {budget_left(self.lab)}" + (f"\nplan: {plan}" if plan else "")
        )

    def _directives(self) -> str:
        notes = [
            d.text for d in self.lab.ledger.directives(self.lab.campaign.id) if d.kind == "note"
        ]
        return self._quote("wishes of the person who runs this campaign", "\n".join(notes), 2000)

    def _lessons(self, most: int) -> str:
        words = f"{self.decision.part} {self.lab.campaign.goal} {' '.join(self.parent.edits)}"
        found = lessons.relevant(self.lab.ledger, self.lab.campaign.id, words)
        return self._quote("lessons", "\n".join(f"- {one.text}" for one in found), most)

    def _history(self, most: int) -> str:
        done = [
            e
            for e in self.lab.ledger.experiments(self.lab.campaign.id)
            if e.verdict is not None and e.number > 0
        ]
        tables = {
            "confirmed or screened": [
                e for e in done if e.verdict in (Verdict.CONFIRMED, Verdict.SCREENED)
            ],
            "from the same parent": [e for e in done if e.parent == self.parent.id],
            "failed or refused": _distinct(
                [e for e in done if e.verdict in (Verdict.FAILED, Verdict.INVALID)]
            ),
            "dead ends": [e for e in done if e.verdict is Verdict.DISCARDED],
        }
        return "\n".join(
            f"{name}:\n" + "\n".join(self._row(e) for e in rows[-most:])
            for name, rows in tables.items()
            if rows
        )

    def _row(self, experiment: Experiment) -> str:
        idea = ", ".join(experiment.edits) or experiment.hypothesis
        value = self._value(experiment.id)
        return f"- {experiment.id} {idea[:160]}: {experiment.verdict}, {value}{_why(experiment)}"

    def _value(self, experiment: str) -> str:
        metric, rung = self.lab.objective.metric, self.lab.plan.screen.name
        trials = self.lab.ledger.trials(experiment=experiment)
        values = [
            v for t in trials if t.rung == rung and (v := t.value(metric)) is not None and t.program
        ]
        return f"{metric} {sum(values) / len(values):.5g}; " if values else ""

    def _measurements(self) -> str:
        rows = []
        for name in dict.fromkeys([self.lab.baseline, self.parent.id, self.lab.incumbent()]):
            wanted = (Purpose.NOISE, Purpose.SCREEN)
            for trial in self.lab.ledger.trials(experiment=name):
                if trial.measurement and trial.purpose in wanted:
                    numbers = sorted(trial.measurement.metrics.items())
                    shown = ", ".join(f"{metric} {value:.5g}" for metric, value in numbers)
                    rows.append(f"{name} on {trial.rung}, seed {trial.seed}: {shown}")
                    break
        return "\n".join(rows)

    def _spectra(self) -> str:
        return spectra.told(self.lab, [self.parent.id, self.lab.incumbent()])

    def _baseline_diff(self) -> str:
        if self.parent.number == 0:
            return ""
        old = self.lab.program_of(self.lab.baseline)
        patch = diff(old, self.lab.program_of(self.parent.id), "baseline", "parent")
        return self._quote("what the parent changed of the baseline", patch, DIFF_CHARACTERS)

    def _files(self) -> Sequence[str]:
        program = self.lab.program_of(self.parent.id)
        files = [self._quote(name, text, FILE_CHARACTERS) for name, text in program.files.items()]
        other = self.second()
        if other is None:
            return files
        old = self.lab.program_of(self.lab.baseline)
        patch = diff(old, self.lab.program_of(other.id), "baseline", other.id)
        return [*files, self._quote("the second parent", patch, DIFF_CHARACTERS)]

    def _bold(self) -> str:
        if self._plateau():
            return "Nothing has helped for a while: leave what was tried, change the mechanism."
        return BOLD.get(self.decision.boldness, BOLD["1"])

    def _task(self) -> str:
        both = " Bring in what makes the second parent good." if self.second() else ""
        part = self.decision.part.replace("_", " ")
        return (
            f"Task: edit the program {', '.join(self.lab.program_of(self.parent.id).files)} above. "
            f"{self._bold()} Look at the {part} first.{both}"
        )


def _rank(experiment: Experiment) -> tuple[bool, float, int]:
    """Confirmed before screened, then by the lower bound of the gain, then the newest."""
    low = experiment.estimate.gain_low
    confirmed = experiment.verdict is Verdict.CONFIRMED
    return confirmed, -math.inf if low is None else low, experiment.number


def budget_left(lab: Lab) -> str:
    """What a campaign may still spend, in words."""
    spent, budget = lab.ledger.spent(lab.campaign.id), lab.objective.budget
    trials, seconds = lab.trials_left(), lab.seconds_left()
    left = [] if math.isinf(trials) else [f"{trials:g} trials"]
    left += [] if math.isinf(seconds) else [f"{max(0.0, seconds):.0f} s"]
    left += [] if budget.usd is None else [f"{budget.usd - spent.usd:.2f} USD"]
    left += [] if budget.tokens is None else [f"{budget.tokens - spent.tokens} tokens"]
    return ", ".join(left) or "no bound"


def _why(experiment: Experiment) -> str:
    return " ".join(experiment.reason.split())[:200]


def _distinct(failed: Sequence[Experiment]) -> list[Experiment]:
    """The latest failure of each kind."""
    return list({e.reason[:60]: e for e in failed}.values())
