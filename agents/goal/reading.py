"""From clauses to an Objective: one aim, its constraints, its budget, and what each word meant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from nightlab.agents.goal import words
from nightlab.agents.goal.aim import Aim, aim, promoted
from nightlab.agents.goal.budget import budget, spent, until
from nightlab.agents.goal.constraint import consistent, constraints, told
from nightlab.agents.goal.grammar import Clause, clauses
from nightlab.agents.goal.lexeme import normal
from nightlab.agents.goal.metrics import Measured
from nightlab.agents.goal.quantity import pieces
from nightlab.errors import UsageError
from nightlab.vocabulary import Constraint, Direction, Objective

LONGEST = 1000
"""Characters of a goal: more is an essay, not a goal."""

BUDGETS = frozenset({"budget", "clock"})
BOUNDS = frozenset(
    {"bound", "change", "same", "near", "no more", "no less", "no worse", "no slower"}
)


@dataclass(frozen=True)
class Understood:
    """Some words of the sentence and what they were read as."""

    words: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A goal as the grammar understood it."""

    sentence: str
    objective: Objective
    understood: tuple[Understood, ...]
    """In the sentence's order."""
    ignored: tuple[str, ...]
    """Words that carry no meaning here, such as "of the language model"."""
    context: int | None
    """Context length, in tokens, asked for with a metric that the task measures at one length."""


def read(sentence: str, metrics: Mapping[str, Direction], primary: str, now: datetime) -> Reading:
    """What the sentence asks for on a task that measures ``metrics`` and judges by ``primary``.

    ``now`` is when "overnight" and "until 6:30" start to count.

    Raises UsageError for words it cannot read (quoted, with what it can), for metrics the task does
    not measure, and for contradictions.
    """
    if len(sentence) > LONGEST:
        raise UsageError(f"a goal has at most {LONGEST} characters; this one has {len(sentence)}")
    text = normal(sentence)
    task = Measured(metrics, primary)
    found = list(clauses(pieces(text, metrics)))
    _check_read(text, found, task)
    return _Draft(text, found, task, now).reading()


def _check_read(text: str, found: Sequence[Clause], task: Measured) -> None:
    unread = [clause.parts[0] for clause in found if clause.kind == "unread"]
    foreign = [part for part in unread if part.kind == "unread"]
    if not unread and found:
        return
    if not found:
        raise UsageError(f"the goal says nothing; {can_read(task)}")
    quoted: list[str] = []
    end = -2
    for part in foreign or unread:
        if part.start <= end + 1:
            quoted[-1] = f"{quoted[-1]} {text[part.start : part.end]}"
        else:
            quoted.append(text[part.start : part.end])
        end = part.end
    hints = [f"{w}: {words.HINTS[w]}" for q in quoted if (w := q.lower()) in words.HINTS]
    shown = ", ".join(repr(_short(words)) for words in quoted[:4])
    because = f" ({'; '.join(hints)})" if hints else ""
    raise UsageError(f"cannot read {shown} in the goal{because}; {can_read(task)}")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def can_read(task: Measured) -> str:
    """The metrics and the forms, for a message."""
    return f"this task measures {task.listed()}; forms: {'; '.join(words.FORMS)}"


@dataclass(frozen=True)
class _Draft:
    """The clauses on their way to a reading."""

    text: str
    clauses: Sequence[Clause]
    task: Measured
    now: datetime

    def reading(self) -> Reading:
        head = self._head()
        goal = aim(head, self._amount(head), self.task)
        limits = {c: constraints(c, goal.metric, self.task) for c in self._bounds(head)}
        spend = budget([c for c in self.clauses if c.kind in BUDGETS], self.now)
        kept = consistent([limit for many in limits.values() for limit in many], goal.metric)
        objective = Objective(
            metric=goal.metric,
            direction=goal.direction,
            target_percent=goal.target_percent,
            target_value=goal.target_value,
            constraints=kept,
            budget=spend,
        )
        return Reading(
            sentence=self.text,
            objective=objective,
            understood=tuple(self._understood(head, goal, limits)),
            ignored=tuple(self._ignored()),
            context=self._context(),
        )

    def _head(self) -> Clause:
        aims = [clause for clause in self.clauses if clause.kind in {"aim", "aim change"}]
        if not aims:
            asked = any(clause.kind == "nothing" for clause in self.clauses)
            aims = [clause for clause in self.clauses if promoted(clause, asked=asked)][:1]
        if not aims:
            lower = self.task.better(self.task.primary) is Direction.LOWER
            example = f"{'lower' if lower else 'raise'} {self.task.primary}"
            raise UsageError(f"the goal has no aim: say what to improve, such as {example!r}")
        if len(aims) > 1:
            both = " and ".join(repr(_short(self._words(clause))) for clause in aims[:2])
            raise UsageError(
                f"two aims, {both}: keep one and make the other a constraint, "
                "such as 'without more parameters' or 'with at most 200k parameters'"
            )
        return aims[0]

    def _amount(self, head: Clause) -> Clause | None:
        loose = [clause for clause in self.clauses if clause.kind == "amount"]
        if len(loose) > 1 or (loose and head.kind != "aim"):
            raise UsageError(f"two targets: {self._words(loose[-1])!r} is one too many")
        return loose[0] if loose else None

    def _bounds(self, head: Clause) -> list[Clause]:
        return [clause for clause in self.clauses if clause.kind in BOUNDS and clause is not head]

    def _words(self, clause: Clause) -> str:
        return self.text[clause.start : clause.end]

    def _understood(
        self, head: Clause, goal: Aim, limits: Mapping[Clause, Sequence[Constraint]]
    ) -> list[Understood]:
        rows = []
        for clause in self.clauses:
            if clause is head or clause.kind == "amount":
                meaning = str(goal)
            elif clause in limits:
                meaning = ", ".join(map(told, limits[clause]))
            elif clause.kind in BUDGETS:
                meaning = self._spent(clause)
            elif clause.kind == "apart":
                meaning = f"context {clause.parts[0].context}"
            else:
                continue
            rows.append(Understood(self._words(clause), meaning))
        return rows

    def _spent(self, clause: Clause) -> str:
        said = spent(budget([clause], self.now))
        return f"until {until(clause)}, {said} from now" if clause.kind == "clock" else said

    def _ignored(self) -> list[str]:
        kept = [clause for clause in self.clauses if clause.kind != "nothing"]
        edges = [(0, 0), *((c.start, c.end) for c in kept), (len(self.text), len(self.text))]
        gaps = [self.text[a[1] : b[0]].strip(" .,;:!?()\"'-") for a, b in pairwise(edges)]
        return [gap for gap in gaps if gap]

    def _context(self) -> int | None:
        named = [part for clause in self.clauses for part in clause.all("metric") if part.context]
        lengths = {p.context for p in named if p.context and "@" not in self.task.called(p)}
        if len(lengths) > 1:
            raise UsageError(f"two contexts, {' and '.join(map(str, sorted(lengths)))}: keep one")
        return lengths.pop() if lengths else None
