"""What the ledger holds of each proposal: what was asked, what was answered, what came of it."""

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nightlab.agents import catalogue, judge, past
from nightlab.agents.author.formats import MOST_OPERATORS, Format
from nightlab.agents.author.prompting import instruction
from nightlab.agents.catalogue import Operator
from nightlab.agents.decide import ended_as
from nightlab.agents.plan import Plan
from nightlab.agents.policy.interface import Outcome
from nightlab.errors import UsageError
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Campaign, Experiment
from nightlab.vocabulary import Program, Verdict

MENU = 12
"""Operators that a prompt made here offers: those that were tried, and others drawn at random."""
SYSTEM = (
    "You choose edits that improve a small language model's training program. Answer with JSON "
    "and nothing else."
)

Talk = tuple[Mapping[str, str], ...]
"""Messages with ``role`` and ``content``, as chat templates take them."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One experiment as something that a model said."""

    experiment: str
    campaign: str
    parent: str
    """Experiment id: siblings share it."""
    program: Program
    """The parent's."""
    prompt: Talk
    answer: str
    operators: tuple[str, ...]
    """``part:variant`` each; empty where code was written."""
    asked: bool
    """Whether a model was really asked this; otherwise the prompt was made here."""
    verdict: Verdict
    outcome: Outcome
    reward: float | None
    """Lower bound of the gain over the baseline; None unless valid."""
    logprobs: tuple[float, ...] | None = None
    """Log-probability of each token of the answer when it was sampled; None where not stored."""

    @property
    def confirmed(self) -> bool:
        """Whether it was better on fresh paired seeds."""
        return self.verdict is Verdict.CONFIRMED

    @cached_property
    def key(self) -> tuple[str, ...]:
        """What makes two answers the same."""
        return tuple(sorted(self.operators)) or (self.answer,)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """One campaign's."""

    campaign: Campaign
    noise: float
    """Standard deviation of a paired difference on the screening rung, metric's unit."""
    rows: tuple[Example, ...]


def read(ledger: Ledger, campaign: Campaign) -> Examples:
    """Every concluded experiment of a campaign that a model could have proposed."""
    seen = past.Past.read(ledger, campaign)
    rows = [
        found
        for experiment in ledger.experiments(campaign.id)
        if (found := _example(ledger, seen, experiment)) is not None
    ]
    return Examples(campaign=campaign, noise=_noise(seen, seen.plan), rows=tuple(rows))


def _noise(seen: past.Past, plan: Plan) -> float:
    try:
        return judge.noise_floor(seen, plan.screen).paired_sd
    except UsageError:
        return float("inf")


def _example(ledger: Ledger, seen: past.Past, experiment: Experiment) -> Example | None:
    if experiment.parent is None or experiment.verdict is None:
        return None
    parent = ledger.experiment(experiment.parent).program
    if parent is None:
        return None
    trials = seen.trials(experiment=experiment.id)
    reward = judge.reward(seen, trials) if np.isfinite(_noise(seen, seen.plan)) else None
    outcome = ended_as(experiment, trials, reward)
    program = ledger.program(parent).program
    operators = tuple(edit.replace("=", ":", 1) for edit in experiment.edits)
    chosen = operators if all(_known(name) for name in operators) else ()
    said = _said(ledger, experiment)
    if said is None and (not chosen or len(chosen) > MOST_OPERATORS):
        return None
    prompt, answer = said or (
        prompt_for(program, seen.campaign, chosen, experiment.id),
        answer_of(experiment.hypothesis, chosen),
    )
    return Example(
        experiment=experiment.id,
        campaign=experiment.campaign,
        parent=experiment.parent,
        program=program,
        prompt=prompt,
        answer=answer,
        operators=chosen,
        asked=said is not None,
        verdict=experiment.verdict,
        outcome=outcome,
        reward=reward if outcome is Outcome.VALID else None,
    )


def _known(name: str) -> bool:
    part, _, variant = name.partition(":")
    try:
        catalogue.operator(part, variant)
    except KeyError:
        return False
    return True


def _said(ledger: Ledger, experiment: Experiment) -> tuple[Talk, str] | None:
    """The conversation that led to a proposal, where a model was asked: its last usable call."""
    calls = [c for c in ledger.calls(experiment.campaign, experiment=experiment.id) if not c.error]
    if not calls:
        return None
    return tuple(_messages(calls[-1].prompt)), calls[-1].reply


def _messages(prompt: str) -> Iterator[Mapping[str, str]]:
    """A conversation from the text in which it is stored (``Question.text``)."""
    pieces = re.split(r"(?m)^\[(system|user|assistant)\]\n", prompt)
    for role, text in zip(pieces[1::2], pieces[2::2], strict=True):
        yield {"role": role, "content": text.strip()}


def prompt_for(program: Program, campaign: Campaign, tried: Sequence[str], key: str) -> Talk:
    """What a model would be asked to choose from: what was tried here, and others."""
    offered = menu_for(program, tried, key)
    parts = ", ".join(f"{part} {variant}" for part, variant in catalogue.current(program).items())
    goal = campaign.objective
    ask = (
        f"Goal: {goal.direction} {goal.metric}.\nThe program's parts now: {parts}.\n"
        f"{instruction(Format.CHOICE, program.files, offered)}"
    )
    return ({"role": "system", "content": SYSTEM}, {"role": "user", "content": ask})


def menu_for(program: Program, tried: Sequence[str], key: str) -> list[Operator]:
    """At most :data:`MENU` operators, ``tried`` among them, in an order that tells nothing."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    wanted = [catalogue.operator(*name.split(":", 1)) for name in dict.fromkeys(tried)]
    able = [o for o in catalogue.operators() if o.applicable(program) and o not in wanted]
    room = max(MENU - len(wanted), 0)
    others = [able[int(place)] for place in rng.permutation(len(able))[:room]]
    menu = [*wanted, *others]
    return [menu[int(place)] for place in rng.permutation(len(menu))]


def answer_of(hypothesis: str, operators: Sequence[str]) -> str:
    """The answer in the form that is asked for."""
    return json.dumps({"hypothesis": hypothesis, "operators": list(operators)})
