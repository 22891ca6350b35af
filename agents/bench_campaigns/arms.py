"""Who decides in a campaign of the bench; all else of a campaign is the same for every arm."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nightlab.agents import catalogue
from nightlab.agents.policy.bandit import decide
from nightlab.agents.policy.decisions import Choice, Head
from nightlab.agents.policy.heads import Floats, Mask, Scored
from nightlab.agents.policy.interface import Archive, Context, Decision, Policy, Record, Update
from nightlab.agents.policy.situation import Situation
from nightlab.agents.policy.stored import bandit, cold, warm
from nightlab.errors import UsageError
from nightlab.vocabulary import Beginning, Program

STARTS = 10
"""Random edits before TPE models anything: optuna's own default."""


class Uniform:
    """Draws every head uniformly; with ``by_puct`` the parent by PUCT."""

    def __init__(self, *, by_puct: bool) -> None:
        self.by_puct = by_puct

    def score(
        self, head: Head, features: Floats, context: Floats, prior: Floats, mask: Mask
    ) -> Scored:
        """The prior for a parent by PUCT, else the uniform distribution on the mask."""
        del features, context
        if self.by_puct and head is Head.PARENT:
            return Scored(prior)
        return Scored(mask / mask.sum())


class Unlearning:
    """What the arms that never learn share."""

    name = ""
    version = "1"

    def learn(self, records: Sequence[Record], rng: np.random.Generator) -> Update:
        """Nothing."""
        del rng
        return Update(
            adopted=False,
            version=self.version,
            reason=f"{self.name} does not learn",
            records=len(records),
        )

    def save(self, folder: Path) -> None:
        """The name: all that such an arm knows is in the archive."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "policy.json").write_text(
            json.dumps({"policy": self.name, "version": self.version})
        )


class Drawn(Unlearning):
    """Random edits of random programs, or of those that PUCT picks."""

    def __init__(self, name: str, *, by_puct: bool) -> None:
        self.name = name
        self.scorer = Uniform(by_puct=by_puct)

    def choose(self, context: Context, rng: np.random.Generator) -> Decision:
        """Draw an action. Raises UsageError where nothing is left to try."""
        situation = Situation(context, None)
        return decide(context, situation, self.scorer, rng, self.name, self.version)


class Tpe(Unlearning):
    """Optuna's multivariate TPE over every part and dial that the baseline has: each suggestion is
    a whole program, written as edits of the baseline. Its first looks are random edits of the
    baseline, for a random program out of this space is almost never any good."""

    name = "tpe"

    def __init__(self, baseline: Program) -> None:
        self.baseline = baseline
        self.random = Drawn("tpe", by_puct=False)

    def choose(self, context: Context, rng: np.random.Generator) -> Decision:
        """A suggestion that the archive does not hold; a random edit where there is none."""
        start = context.archive.attempts[0]
        if len(context.archive) > STARTS:
            for _ in range(10):
                edits = self._edits(start.genes, self._ask(context.archive, start.genes, rng))
                genes = {**start.genes, **dict(edits)}
                if edits and tuple(context.archive.encode(genes)) not in context.archive.seen:
                    return self._decision(context, start.id, edits)
        only = {**context.only, Head.PARENT: frozenset({start.id})}
        drawn = Context(
            campaign=context.campaign,
            id=context.id,
            archive=context.archive,
            budget_left=context.budget_left,
            noise=context.noise,
            closed=context.closed,
            only=only,
        )
        return self.random.choose(drawn, rng)

    def _ask(
        self, archive: Archive, start: Mapping[str, str], rng: np.random.Generator
    ) -> dict[str, str]:
        """The variants that optuna suggests."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        parts = [part for part in archive.menu.parts if part.name in start]
        space: dict[str, optuna.distributions.BaseDistribution] = {
            part.name: optuna.distributions.IntDistribution(0, len(part.variants) - 1)
            if part.ordered
            else optuna.distributions.CategoricalDistribution(range(len(part.variants)))
            for part in parts
        }
        sampler = optuna.samplers.TPESampler(
            seed=int(rng.integers(2**31)), multivariate=True, n_startup_trials=STARTS
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for attempt in archive.attempts:
            held = {p.name: attempt.genes.get(p.name, "") for p in parts}
            if attempt.reward is None or any(held[p.name] not in p.variants for p in parts):
                continue
            values = {p.name: p.variants.index(held[p.name]) for p in parts}
            study.add_trial(
                optuna.trial.create_trial(params=values, distributions=space, value=attempt.reward)
            )
        trial = study.ask(space)
        return {part.name: part.variants[int(trial.params[part.name])] for part in parts}

    def _edits(
        self, start: Mapping[str, str], wanted: Mapping[str, str]
    ) -> tuple[tuple[str, str], ...]:
        """What of a suggestion can be made, one edit after another; parts come before dials."""
        program, edits = self.baseline, []
        for part, variant in wanted.items():
            operator = catalogue.operator(part, variant)
            if variant != start[part] and operator.applicable(program):
                program = operator.apply(program)
                edits.append((part, variant))
        return tuple(edits)

    def _decision(
        self, context: Context, parent: str, edits: tuple[tuple[str, str], ...]
    ) -> Decision:
        sure = {Head.PARENT: parent, Head.AUTHOR: "catalogue", Head.BOLDNESS: str(len(edits))}
        return Decision(
            id=context.id,
            campaign=context.campaign,
            choices=tuple(
                Choice(head=head, options=(option,), mask=(True,), mu=(1.0,), index=0)
                for head, option in sure.items()
            ),
            edits=edits,
            policy=self.name,
            version=self.version,
            catalogue=context.archive.menu.version,
            proposer="",
            seed="",
            time=len(context.archive),
            lineage=parent,
            note="suggested by optuna as a whole: no propensities",
        )


ARMS: Mapping[str, Callable[[Program], Policy]] = {
    "random": lambda _: Drawn("random", by_puct=False),
    "tpe": Tpe,
    "puct": lambda _: Drawn("puct", by_puct=True),
    "bandit": lambda _: bandit(),
    "cold": lambda _: cold(),
    "policy": lambda _: warm(),
}
"""Arm to what decides in it. ``policy`` starts from the weights that ship."""
BEGINNINGS: Mapping[str, Beginning] = {"cold": Beginning.COLD, "policy": Beginning.WARM}


def arms_of(names: Sequence[str]) -> tuple[str, ...]:
    """The arms by name, each once, in the order given. Raises UsageError for an unknown one."""
    found = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    if unknown := [name for name in found if name not in ARMS]:
        raise UsageError(f"there is no arm {unknown[0]!r}: choose from {', '.join(ARMS)}")
    if not found:
        raise UsageError(f"name at least one arm of {', '.join(ARMS)}")
    return found
