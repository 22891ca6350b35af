"""The safe start: PUCT over the archive for the parent, Thompson sampling for everything else."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nightlab.agents.policy.decisions import Decision, Head, Record
from nightlab.agents.policy.heads import Draw, PriorScorer, Scorer
from nightlab.agents.policy.interface import Context, Update
from nightlab.agents.policy.situation import Situation
from nightlab.agents.policy.surrogate import Kernel

VERSION = "1"


class PuctThompson:
    """Policy without weights: all it knows is the archive, so a resume needs no state."""

    name = "puct-thompson"
    version = VERSION

    def __init__(self, kernel: Kernel | None = None) -> None:
        """``kernel`` makes the surrogate's forecasts part of the logged features, so that a
        learner can use this policy's decisions; the choice itself does not read them."""
        self.kernel = kernel

    def choose(self, context: Context, rng: np.random.Generator) -> Decision:
        """Draw an action. Raises UsageError where no program has been measured yet."""
        return decide(
            context, Situation(context, self.kernel), PriorScorer(), rng, self.name, self.version
        )

    def learn(self, records: Sequence[Record], rng: np.random.Generator) -> Update:
        """Nothing to learn: the evidence is read from the archive at every choice."""
        del rng
        return Update(
            adopted=False,
            version=self.version,
            reason="the bandit has no weights",
            records=len(records),
        )

    def save(self, folder: Path) -> None:
        """Write the name and version; there is no other state."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"policy": self.name, "version": self.version})
        (folder / "policy.json").write_text(text)


def decide(
    context: Context,
    situation: Situation,
    scorer: Scorer,
    rng: np.random.Generator,
    name: str,
    version: str,
    note: str = "",
    foresight: float = 0.0,
) -> Decision:
    """Draw every head with a scorer and freeze the decision."""
    seed = json.dumps(rng.bit_generator.state)
    drawn = Draw(situation, scorer, rng, foresight).run()
    archive = context.archive
    parent = next(choice for choice in drawn.choices if choice.head is Head.PARENT)
    return Decision(
        id=context.id,
        campaign=context.campaign,
        choices=tuple(drawn.choices),
        edits=tuple(drawn.edits),
        policy=name,
        version=version,
        catalogue=archive.menu.version,
        proposer=archive.menu.proposer,
        seed=seed,
        time=len(archive),
        lineage=archive.branch(archive.row[parent.chosen]),
        context=drawn.context,
        note=note,
    )
