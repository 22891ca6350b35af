"""The order in which an action is drawn; what a head's distribution is, is the scorer's business.

parent -> author -> boldness -> (part -> variant) x boldness -> rung
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.policy import features as read
from nightlab.agents.policy.decisions import Choice, Head
from nightlab.agents.policy.dials import OPTIMIZERS, suggest
from nightlab.agents.policy.draw import EPSILON, best_probabilities, draw
from nightlab.agents.policy.evidence import Posterior
from nightlab.agents.policy.situation import Edits, Situation

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

ARGMAX_SHARE = 0.9
"""Share of the parent's prior on the best PUCT score; the rest is uniform over the candidates."""


SHARPNESS = 8.0
"""Power of the expected improvement in the prior's share of foresight."""


@dataclass(frozen=True)
class Scored:
    """A head's distribution before the floor, and the critic's values where there are any."""

    probabilities: Floats
    value: Floats | None = None


class Scorer(Protocol):
    """Turns one head's options into a distribution."""

    def score(
        self, head: Head, features: Floats, context: Floats, prior: Floats, mask: Mask
    ) -> Scored: ...


class PriorScorer:
    """The bandit: draws from the prior."""

    def score(
        self, head: Head, features: Floats, context: Floats, prior: Floats, mask: Mask
    ) -> Scored:
        del head, features, context, mask
        return Scored(prior)


@dataclass
class Draw:
    """One action in the making."""

    situation: Situation
    scorer: Scorer
    rng: np.random.Generator
    foresight: float = 0.0
    """Share of the prior that follows the surrogate's forecasts instead of the bandit."""
    epsilon: float = EPSILON

    def __post_init__(self) -> None:
        self.choices: list[Choice] = []
        self.edits: list[tuple[str, str]] = []
        self.context = read.context_features(self.situation)
        self.vector: Floats = np.array(list(self.context.values()))

    def run(self) -> "Draw":
        """Draw every head. The results are in ``choices`` and ``edits``."""
        row = self._parent()
        author = self._author(row)
        if author in OPTIMIZERS:
            self.edits = suggest(author, self.situation, row, self.rng)
        else:
            self._boldly(row, author)
        self._simple(Head.RUNG, self.situation.archive.menu.rungs, self.situation.evidence.rungs)
        return self

    def _parent(self) -> int:
        situation = self.situation
        names = [situation.archive.attempts[row].id for row in situation.rows]
        mask = situation.allowed(Head.PARENT, names, situation.parent_mask)
        table = read.parent_features(situation)
        gain = np.where(situation.edits.open, situation.edits.gain, 0.0).max(axis=1, initial=0.0)
        prior = self._mixed(parent_prior(situation.puct, mask), gain, mask)
        return self._draw(Head.PARENT, names, mask, table, prior)

    def _author(self, row: int) -> str:
        situation = self.situation
        options = list(situation.archive.menu.authors)
        mask = np.array([self._can(author, row) for author in options], dtype=np.bool_)
        if not mask.any():
            mask = np.array([author in situation.authors for author in options])
        usd = [situation.context.usd.get(author, 0.0) for author in options]
        index = self._simple(Head.AUTHOR, options, situation.evidence.authors, mask, usd)
        return options[index]

    def _can(self, author: str, row: int) -> bool:
        situation = self.situation
        if author not in situation.authors:
            return False
        if author == "catalogue":
            return bool(situation.edits.open[row].any())
        if author in OPTIMIZERS:
            return any(part.ordered for part in situation.archive.menu.parts)
        return True

    def _boldly(self, row: int, author: str) -> None:
        situation = self.situation
        menu = situation.archive.menu
        level = menu.boldness[
            self._simple(Head.BOLDNESS, menu.boldness, situation.evidence.boldness)
        ]
        if author != "catalogue":
            part = self._part(situation.edits, row, np.ones(len(menu.parts), dtype=np.bool_))
            self._only(Head.VARIANT, ["free"])
            self.edits.append((menu.parts[part].name, "free"))
            return
        name = situation.archive.attempts[situation.rows[row]].id
        edits, codes = situation.edits, situation.codes[row].copy()
        changed: set[int] = set()
        for turn in range(int(level) if level.isdigit() else 1):
            if turn:
                edits, row = situation.at(codes[None, :], [name]), 0
            mask = _open_parts(situation, edits, row)
            mask[list(changed)] = False
            if not mask.any():
                break
            part = self._part(edits, row, mask)
            variant = self._variant(edits, row, part, int(codes[part]))
            changed.add(part)
            codes[part] = variant

    def _part(self, edits: Edits, row: int, mask: Mask) -> int:
        situation = self.situation
        names = [part.name for part in situation.archive.menu.parts]
        mask = situation.allowed(Head.PART, names, mask)
        known = self._remembered(edits.open[row])
        belief = situation.evidence.about(situation.evidence.parts, names, known)
        gain = np.zeros(len(names))
        np.maximum.at(gain, situation.pair_part, np.where(edits.open, edits.gain, 0.0)[row])
        prior = best_probabilities(belief.mean, belief.deviation, mask)
        prior = self._mixed(prior, gain, mask)
        table = read.part_features(situation, edits, row, belief, prior)
        return self._draw(Head.PART, names, mask, table, prior)

    def _remembered(self, open_: Mask) -> tuple[Floats, Floats]:
        """What earlier campaigns say of each part's best open edit: gains and weights."""
        situation, memory = self.situation, self.situation.archive.memory
        rows = []
        for index, part in enumerate(situation.archive.menu.parts):
            here = open_[situation.pair_part == index]
            left = [v for v, can in zip(part.variants, here, strict=True) if can]
            rows.append(memory.part(part.name, left))
        table = np.array(rows, dtype=np.float64)
        return table[:, 0], table[:, 1]

    def _variant(self, edits: Edits, row: int, part: int, now: int) -> int:
        situation = self.situation
        options = situation.archive.menu.parts[part].variants
        name = situation.archive.menu.parts[part].name
        mask = edits.open[row][situation.pair_part == part]
        mask = situation.allowed(Head.VARIANT, list(options), mask)
        keys = [(name, option) for option in options]
        known = situation.archive.memory.variants(name, options)
        belief = situation.evidence.about(situation.evidence.variants, keys, known)
        prior = best_probabilities(belief.mean, belief.deviation, mask)
        prior = self._mixed(prior, edits.gain[row][situation.pair_part == part], mask)
        table = read.variant_features(situation, edits, row, part, now, belief, prior)
        index = self._draw(Head.VARIANT, list(options), mask, table, prior)
        self.edits.append((name, options[index]))
        return index

    def _simple(
        self,
        head: Head,
        options: Sequence[str],
        keys: Sequence[object],
        mask: Mask | None = None,
        usd: Sequence[float] = (),
    ) -> int:
        everything = np.ones(len(options), dtype=np.bool_) if mask is None else mask
        mask = self.situation.allowed(head, list(options), everything)
        if len(options) == 1:
            return self._only(head, options)
        belief: Posterior = self.situation.evidence.about(keys, options)
        prior = best_probabilities(belief.mean, belief.deviation, mask)
        if usd:
            prior = by_cost(prior, np.array(usd))
        if head is Head.BOLDNESS:
            # what is foretold is one edit at a time
            prior = self._mixed(prior, np.eye(len(options))[0], mask)
        table = read.other_features(self.situation, belief, prior)
        return self._draw(head, options, mask, table, prior)

    def _mixed(self, prior: Floats, gain: Floats, mask: Mask) -> Floats:
        """The prior with its share of foresight: mass on the largest expected improvements."""
        inside = np.where(mask, gain, 0.0)
        if self.foresight <= 0.0 or inside.max() <= 0.0:
            return prior
        sharp = (inside / inside.max()) ** SHARPNESS
        mixed: Floats = (1.0 - self.foresight) * prior + self.foresight * sharp / sharp.sum()
        return mixed

    def _only(self, head: Head, options: Sequence[str]) -> int:
        """Log a head that leaves no choice."""
        one = np.ones(1)
        self.choices.append(draw(head, options, one > 0, one, self.rng, prior=one))
        return 0

    def _draw(
        self, head: Head, options: Sequence[str], mask: Mask, table: Floats, prior: Floats
    ) -> int:
        scored = self.scorer.score(head, table, self.vector, prior, mask)
        choice = draw(
            head,
            options,
            mask,
            scored.probabilities,
            self.rng,
            features=table,
            prior=prior,
            value=scored.value,
            epsilon=self.epsilon,
        )
        self.choices.append(choice)
        return choice.index


def by_cost(prior: Floats, usd: Floats) -> Floats:
    """Probabilities of authors, those of known price weighed by gain per USD, shape (authors,).

    What the priced ones have together is shared among them in proportion to p / USD, so that one
    which gains as much for a tenth of the money is asked ten times as often. Authors without a
    price (the catalogue, local models, unknown prices) keep what they had.
    """
    priced = usd > 0
    mass = prior[priced].sum()
    if priced.sum() < 2 or mass <= 0:
        return prior
    worth = prior[priced] / usd[priced]
    result = prior.copy()
    result[priced] = mass * worth / worth.sum()
    return result


def parent_prior(scores: Floats, mask: Mask) -> Floats:
    """PUCT's argmax wrapped in a uniform share, shape (candidates,); ties share."""
    inside = np.where(mask, scores, -np.inf)
    top = inside == inside.max()
    prior: Floats = ARGMAX_SHARE * top / top.sum() + (1.0 - ARGMAX_SHARE) * mask / mask.sum()
    return prior


def _open_parts(situation: Situation, edits: Edits, row: int) -> Mask:
    parts = len(situation.archive.menu.parts)
    return np.bincount(situation.pair_part, edits.open[row], minlength=parts) > 0
