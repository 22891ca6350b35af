"""Which of the ledger's examples train what, and the guards that keep a set diverse.

SFT takes confirmed improvements. A preference is between siblings of one parent: one that is valid
over one that is not, or a gain over another by more than the noise. A GRPO group is a parent with
everything that was measured below it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nightlab.agents.catalogue import Operator
from nightlab.agents.finetune.examples import (
    MENU,
    Example,
    Examples,
    Talk,
    menu_for,
    prompt_for,
)
from nightlab.agents.policy.interface import Outcome
from nightlab.errors import MissingError
from nightlab.memory.records import Campaign

SHARE = 0.25
"""Largest share of a set that examples with the same first operator may have."""
ALWAYS = 2
"""So many of one operator are kept whatever the share."""
PARTNERS = 4
"""Most pairs that one example is in."""
GAP = 2.0
"""Noise deviations that a preferred sibling is better by."""
LEAST = {"sft": 4, "dpo": 4, "grpo": 1}
"""Fewest examples, pairs, groups: with less a method is refused."""
GROUP = 4
"""Fewest measured children of a parent that make a group."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to one prompt."""

    prompt: Talk
    chosen: str
    rejected: str
    experiments: tuple[str, str]
    why: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """A parent, and what its children were worth: the cached table that a reward is read from."""

    parent: str
    campaign: Campaign
    rows: tuple[Example, ...]
    worth: Mapping[tuple[str, ...], float]
    """Sorted operators to the rank of the reward among the children, in (0, 1]; penalties below."""

    @property
    def prompt(self) -> Talk:
        """A prompt whose menu offers what was measured."""
        return prompt_for(self.rows[0].program, self.campaign, self._tried, self.parent)

    @property
    def offered(self) -> list[Operator]:
        """The prompt's menu, in its order."""
        return menu_for(self.rows[0].program, self._tried, self.parent)

    @property
    def _tried(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row.operators))[:MENU]


def confirmed(sets: Iterable[Examples]) -> list[Example]:
    """Confirmed improvements, each answer to one parent once, no operator too often."""
    found = {(e.parent, e.key): e for one in sets for e in one.rows if e.confirmed}
    return capped(list(found.values()))


def capped(rows: Sequence[Example]) -> list[Example]:
    """No first operator in more than a quarter: a set of one trick teaches one trick."""
    most = max(ALWAYS, int(SHARE * len(rows)))
    count: Counter[str] = Counter()
    kept = []
    for row in rows:
        count[row.key[0]] += 1
        if count[row.key[0]] <= most:
            kept.append(row)
    return kept


def preferences(sets: Iterable[Examples]) -> list[Pair]:
    """Pairs of siblings; where both prompts were made here, one menu offers both answers."""
    return [pair for one in sets for pair in _preferences(one)]


def _preferences(one: Examples) -> list[Pair]:
    pairs, partners = [], Counter[str]()
    for family in families(one).values():
        for better in family:
            for worse in family:
                why = _why(better, worse, one.noise)
                busy = max(partners[better.experiment], partners[worse.experiment]) >= PARTNERS
                if why and not busy and better.asked == worse.asked:
                    partners.update((better.experiment, worse.experiment))
                    pairs.append(_pair(better, worse, one.campaign, why))
    return pairs


def _why(better: Example, worse: Example, noise: float) -> str:
    """Why one is preferred; empty where it is not, or not beyond the noise."""
    if better.key == worse.key or better.reward is None or worse.outcome is Outcome.LOST:
        return ""
    if worse.reward is None:
        return f"valid against {worse.outcome}"
    gap = better.reward - worse.reward
    return f"better by {gap:.3g}" if gap > GAP * noise else ""


def _pair(better: Example, worse: Example, campaign: Campaign, why: str) -> Pair:
    prompt = better.prompt
    if not better.asked:
        tried = [*better.operators, *worse.operators]
        key = f"{better.experiment}/{worse.experiment}"
        prompt = prompt_for(better.program, campaign, tried, key)
    return Pair(
        prompt=prompt,
        chosen=better.answer,
        rejected=worse.answer,
        experiments=(better.experiment, worse.experiment),
        why=why,
    )


def families(one: Examples) -> dict[str, list[Example]]:
    """Siblings by their parent."""
    found: dict[str, list[Example]] = defaultdict(list)
    for row in one.rows:
        found[row.parent].append(row)
    return found


def groups(sets: Iterable[Examples]) -> list[Group]:
    """Parents with enough measured children that chose operators."""
    found = []
    for one in sets:
        for parent, family in families(one).items():
            rows = [row for row in family if row.operators and row.outcome is not Outcome.LOST]
            valid = sorted(row.reward for row in rows if row.reward is not None)
            if len(valid) < GROUP:
                continue
            worth = {
                row.key: -0.25 if row.reward is None else (valid.index(row.reward) + 1) / len(valid)
                for row in rows
            }
            found.append(Group(parent=parent, campaign=one.campaign, rows=tuple(rows), worth=worth))
    return found


def enough(method: str, count: int, campaigns: int) -> None:
    """Refuse too little. Raises MissingError that says what there is and what it takes."""
    names = {"sft": "confirmed improvements", "dpo": "preference pairs", "grpo": "groups"}
    if count < LEAST[method]:
        raise MissingError(
            f"{campaigns} campaign(s) hold {count} {names[method]}, {method} needs "
            f"{LEAST[method]}: run more campaigns first"
        )


def stored_groups(found: Sequence[Group]) -> list[Group]:
    """Groups whose stored answers may be learned from off-policy.

    Raises:
        MissingError: token log-probabilities of an answer were not stored; without them the
            importance of a stored answer is unknown, and the gradient would be wrong.
    """
    without = [row.experiment for group in found for row in group.rows if row.logprobs is None]
    if without:
        raise MissingError(
            f"no token log-probabilities are stored for {len(without)} answers, such as "
            f"{without[0]}: learn from stored answers with --method dpo, or leave --off-policy out"
        )
    return list(found)
