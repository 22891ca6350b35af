"""An author that is a language model: asks for an edit, reads it, and has it repaired."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from nightlab.agents import directives
from nightlab.agents.author import formats
from nightlab.agents.author.context import Situation
from nightlab.agents.author.formats import Edit, Format, offer, shortlist
from nightlab.agents.author.mistake import MisreadError, Mistake
from nightlab.agents.author.near import Neighbours
from nightlab.agents.author.prompting import Quoting, again, by_number, instruction, system
from nightlab.agents.catalogue import Operator
from nightlab.agents.decide import menu
from nightlab.agents.lab import Lab
from nightlab.agents.policy.interface import Decision, Head
from nightlab.agents.propose import Proposal, Refusal, changed_lines
from nightlab.agents.question import (
    LASTING,
    UNANSWERED,
    LanguageModel,
    Message,
    Question,
    Trouble,
    UnansweredError,
)
from nightlab.memory.records import Decision as Row
from nightlab.vocabulary import Program, Tier, Verdict

REPAIRS = 2
"""Times a proposal goes back to its author."""
FORMAT = "format"
"""Head under which the choice of format is stored."""
MOST_TOKENS = 8192
"""Of a reply that writes code."""
CHOICE_TOKENS = 1024
"""Of a reply that chooses operators; a model that reasons first needs most of them."""
FEW_TOKENS = (16, 64, CHOICE_TOKENS)
"""Of a reply that is a number, by the repairs before: few, and then room for who reasons first."""
CHOOSER = "You improve the training program of a small neural network."
FEW = 12
"""Operators on a list that is answered by a number."""
WHOLE_LINES = 400
PATIENCE = 3
"""Experiments in a row without an answer after which an author is no longer asked."""
WORTH = {Verdict.INVALID: 0.0, Verdict.FAILED: 0.25, Verdict.DISCARDED: 0.75}
"""What an experiment says of its format, from 0 (unusable) to 1."""

Check = Callable[[str, Program], str | None]
"""Why an experiment's program is refused on sight; None if it is not."""


@dataclass
class _Conversation:
    form: Format
    parent: Program
    offered: Sequence[Operator]
    quoting: Quoting
    messages: list[Message]
    number: str = ""
    """A choice, asked for by its number only."""
    repairs: int = 0
    refused: set[str] = field(default_factory=set)
    """Operators whose program was refused: not offered again."""


@dataclass
class Authors:
    """The language models of one campaign."""

    lab: Lab
    models: Mapping[str, LanguageModel]
    patches: bool = False
    """Whether V4A patches are among the formats (OpenAI's models)."""
    near: Neighbours | None = None
    """Compares written changes, where an embedding model is configured."""
    closed: set[str] = field(default_factory=set)
    """Those that are no longer asked, each with a line in the log."""
    _talks: dict[str, _Conversation] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _read: dict[str, Sequence[Row]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def propose(self, experiment: str, decision: Decision, check: Check) -> Proposal | Refusal:
        """Ask the decision's author for an edit of the parent, with repair where it is faulty."""
        parent = self.lab.program_of(decision.parent)
        offered = self._offered(experiment, decision, parent)
        form = self._format(experiment, decision, parent, bool(offered))
        quoting = Quoting()
        situation = Situation(self.lab, decision, quoting)
        answer = instruction(form, parent.files, offered)
        ask = situation.choice(answer) if form is Format.CHOICE else situation.prompt(answer)
        messages = [Message("system", system(quoting.tag, form)), Message("user", ask)]
        talk = _Conversation(form, parent, offered, quoting, messages)
        if form is Format.CHOICE:
            talk.number = by_number(offered[:FEW], self._aim())
        self._talks[experiment] = talk
        return self._until_usable(experiment, decision, talk, check)

    def repair(
        self, experiment: str, decision: Decision, problem: str, check: Check
    ) -> Proposal | Refusal | None:
        """Another version after a failed smoke test; None when there were enough of them."""
        talk = self._talks.get(experiment)
        if talk is None or not self._blame(talk, MisreadError(Mistake.SMOKE, problem)):
            return None
        return self._until_usable(experiment, decision, talk, check)

    def able(self) -> list[str]:
        """Models that can still be asked."""
        return [name for name in self.models if name not in self.closed]

    def done(self, experiment: str) -> None:
        """Forget a conversation."""
        self._talks.pop(experiment, None)

    def _until_usable(
        self, experiment: str, decision: Decision, talk: _Conversation, check: Check
    ) -> Proposal | Refusal:
        while True:
            try:
                edit = self._ask(experiment, decision.author, talk)
                if problem := check(experiment, edit.program) or self._alike(experiment, edit):
                    talk.refused |= {operator.name for operator in edit.operators}
                    raise MisreadError(Mistake.VETTED, problem)
            except UnansweredError as error:
                return self._unanswered(experiment, decision.author, error)
            except MisreadError as error:
                if error.mistake is Mistake.REFUSED or not self._blame(talk, error):
                    return Refusal(str(error)[:500])
                continue
            return _proposal(decision, talk.parent, edit, talk.form)

    def _alike(self, experiment: str, edit: Edit) -> str | None:
        """Why written code is nearly what was tried before; operators are told apart by name."""
        if self.near is None or edit.operators:
            return None
        return self.near.refuse(experiment, edit.program)

    def _ask(self, experiment: str, author: str, talk: _Conversation) -> Edit:
        board = self.lab.board

        def hear(characters: int) -> None:
            board.show(experiment, f"{author} is writing, {characters} characters")

        board.show(experiment, f"asking {author} for {talk.form}")
        question = _question(talk)
        campaign, ledger = self.lab.campaign.id, self.lab.ledger
        reply = self.models[author].ask(
            question,
            lambda call: ledger.record_call(campaign, call, experiment=experiment),
            hear,
        )
        with self._lock:
            self._failures[author] = 0
        talk.messages.append(Message("assistant", reply.text[:60_000]))
        if reply.refused:
            raise MisreadError(Mistake.REFUSED, reply.text[:200] or "no reason given")
        if reply.truncated and talk.form is not Format.CHOICE:
            raise MisreadError(Mistake.CUT_OFF, "the reply was too long: change less")
        return formats.read(talk.form, reply.text, talk.parent, talk.offered)

    def _blame(self, talk: _Conversation, error: MisreadError) -> bool:
        """Send a fault back, unless it was sent back often enough."""
        if talk.repairs == REPAIRS:
            return False
        talk.repairs += 1
        fault = talk.quoting.quote("what was wrong", str(error), 3000)
        talk.offered = [o for o in talk.offered if o.name not in talk.refused] or talk.offered
        told = again(talk.form, talk.offered)
        if talk.number:
            talk.number = by_number(talk.offered[:FEW], self._aim())
        talk.messages.append(Message("user", f"That cannot be used.\n{fault}\n{told}"))
        return True

    def _unanswered(self, experiment: str, author: str, error: UnansweredError) -> Refusal:
        if error.trouble is Trouble.STOPPED:
            return Refusal(f"{UNANSWERED}: {error}")
        with self._lock:
            self._failures[author] = self._failures.get(author, 0) + 1
            over = error.trouble in LASTING or self._failures[author] >= PATIENCE
            close = over and author not in self.closed
            if close:
                self.closed.add(author)
        self.lab.log("model", str(error), experiment)
        if close:
            self.lab.log("model", f"{author} is no longer asked: {error.trouble}")
        return Refusal(f"{UNANSWERED}: {error}"[:500])

    def _aim(self) -> str:
        objective = self.lab.objective
        return f"make {objective.metric} {objective.direction}"

    def _offered(self, experiment: str, decision: Decision, parent: Program) -> list[Operator]:
        siblings = [
            e
            for e in self.lab.ledger.experiments(self.lab.campaign.id)
            if e.parent == decision.parent and len(e.edits) == 1
        ]
        tried = frozenset(e.edits[0].replace("=", ":", 1) for e in siblings)
        fresh, every = offer(parent, tried), offer(parent, frozenset())
        only = directives.take_up(self.lab, menu(("catalogue", *self.models)))
        found = _wished(fresh, only) or _wished(every, only) or fresh or every
        number = self.lab.ledger.experiment(experiment).number
        return shortlist(
            found, decision.part, np.random.default_rng([self.lab.campaign.seed, 13, number])
        )

    def _format(
        self, experiment: str, decision: Decision, parent: Program, choices: bool
    ) -> Format:
        """Thompson sampling over what each form came to; stored with its whole distribution."""
        stored = [d for d in self.lab.ledger.decisions(experiment) if d.head == FORMAT]
        if stored:
            return Format(stored[0].action)
        able = self._able(parent, choices)
        record = self.records(decision.author)
        beliefs = [stats.beta(*record[form]) for form in able]
        number = self.lab.ledger.experiment(experiment).number
        rng = np.random.default_rng([self.lab.campaign.seed, 11, number])
        draws = np.stack([b.rvs(512, random_state=rng) for b in beliefs])
        mu = np.bincount(draws.argmax(0), minlength=len(able)) / 512 * 0.9 + 0.1 / len(able)
        at = int(rng.choice(len(able), p=mu / mu.sum()))
        self.lab.ledger.record_decision(
            experiment,
            Row(
                head=FORMAT,
                action=able[at].value,
                features={form.value: [float(n) for n in record[form]] for form in able},
                mask=[form.value for form in able],
                distribution=[float(p) for p in mu],
                policy="thompson",
                version="1",
                propensity=float(mu[at]),
                seed=number,
            ),
        )
        return able[at]

    def _able(self, parent: Program, choices: bool) -> list[Format]:
        choice = [Format.CHOICE] if choices else []
        if self.lab.campaign.tier == Tier.PROCESS and not self.lab.unsafe:
            return choice
        lines = sum(text.count("\n") for text in parent.files.values())
        whole = [Format.WHOLE] if lines < WHOLE_LINES else []
        return [Format.BLOCKS, *whole, *([Format.PATCH] if self.patches else []), *choice]

    def records(self, author: str) -> dict[Format, tuple[float, float]]:
        """Successes and failures of each form in this campaign, on top of two expected ones."""
        counts = {f: (2 * formats.PRIOR[f], 2 * (1 - formats.PRIOR[f])) for f in Format}
        for experiment in self.lab.ledger.experiments(self.lab.campaign.id):
            if experiment.verdict is None or experiment.reason.startswith(UNANSWERED):
                continue
            rows = {d.head.partition(":")[2] or d.head: d for d in self._decisions(experiment.id)}
            if FORMAT in rows and rows["author"].action == author:
                worth = WORTH.get(experiment.verdict, 1.0)
                form = Format(rows[FORMAT].action)
                good, bad = counts[form]
                counts[form] = (good + worth, bad + 1 - worth)
        return counts

    def _decisions(self, experiment: str) -> Sequence[Row]:
        """A concluded experiment's decisions, read once."""
        if experiment not in self._read:
            self._read[experiment] = self.lab.ledger.decisions(experiment)
        return self._read[experiment]

    def wrote(self, experiment: str) -> bool:
        """Whether an experiment's author wrote code, rather than chose operators."""
        forms = [d.action for d in self.lab.ledger.decisions(experiment) if d.head == FORMAT]
        return bool(forms) and forms[0] != Format.CHOICE


def _question(talk: _Conversation) -> Question:
    """The next question; a choice is also put so that no JSON and few tokens are needed."""
    messages = tuple(talk.messages)
    if talk.form is not Format.CHOICE:
        return Question(messages=messages, most_tokens=MOST_TOKENS)
    plain = None
    if talk.number:
        few = (Message("system", CHOOSER), Message("user", talk.number))
        plain = Question(messages=few, most_tokens=FEW_TOKENS[talk.repairs])
    return Question(
        messages=messages,
        schema=formats.schema(talk.offered),
        most_tokens=CHOICE_TOKENS,
        unheld=plain,
    )


def _wished(operators: Sequence[Operator], only: Mapping[Head, frozenset[str]]) -> list[Operator]:
    """The operators that standing directives allow."""
    parts, variants = only.get(Head.PART), only.get(Head.VARIANT)
    return [
        o
        for o in operators
        if (parts is None or o.part in parts) and (variants is None or o.variant in variants)
    ]


def _proposal(decision: Decision, parent: Program, edit: Edit, form: Format) -> Proposal:
    added, removed = changed_lines(parent, edit.program)
    part = edit.operators[0].part if edit.operators else decision.part
    edits = [f"{o.part}={o.variant}" for o in edit.operators] or [_title(edit, decision)]
    return Proposal(
        program=edit.program,
        operator=edit.operators[0].name if edit.operators else f"{part}:{form.value}",
        part=part,
        hypothesis=edit.hypothesis or f"{decision.author} gave no reason",
        edits=tuple(edits),
        lines_added=added,
        lines_removed=removed,
    )


def _title(edit: Edit, decision: Decision) -> str:
    """A short name for a written edit, such as ``attention: linear attention with a gate``."""
    words = re.sub(r"[^\w .,%@-]", "", edit.hypothesis)
    return f"{decision.part}: {words[:60].strip() or 'written'}"
