"""The archive of a campaign: attempts in order, with the tree statistics that PUCT needs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.policy.attempts import Attempt, Menu, Outcome
from nightlab.agents.policy.memory import Memory


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An archive entry that can be a parent."""

    id: str
    parent: str | None
    reward: float
    """Lower confidence bound of the trusted score, higher is better."""
    valid: bool
    visits: int
    """Expansions of it or of anything below it, in-flight ones included (virtual loss)."""
    children: int
    """Direct children with any outcome, in-flight ones included."""
    in_flight: int
    """Direct children without an outcome yet."""
    best_child: float | None
    """Best reward among the direct children; None while it has no valid child."""
    lineage: str
    """Id of the starting program it descends from."""
    depth: int
    features: Mapping[str, float] = field(default_factory=dict)


class Archive:
    """Attempts of one campaign, append-only except that a pending one gets its outcome once.

    Rows are indexed 0..n-1 in the order of arrival. An attempt with an unknown parent id is
    treated as a starting program.
    """

    def __init__(
        self, menu: Menu, attempts: Iterable[Attempt] = (), memory: Memory | None = None
    ) -> None:
        """``memory``: what campaigns before this one measured."""
        self.menu = menu
        self.memory = memory or Memory()
        self.attempts: list[Attempt] = []
        self.row: dict[str, int] = {}
        """Attempt id to row."""
        self.version = 0
        """Grows with every change, so that a reader can cache what it computed."""
        self.parent: list[int] = []
        self.visits: list[int] = []
        self.children: list[int] = []
        self.in_flight: list[int] = []
        self.best_child: list[float] = []
        self.depth: list[int] = []
        self.root: list[int] = []
        self.codes: list[list[int]] = []
        """Genes as numbers, in the menu's order of parts; -1 where the part is unknown."""
        self.seen: dict[tuple[int, ...], int] = {}
        """Genes that were tried (any outcome but ``lost``) to the first row that did."""
        self.expansions = 0
        """T of PUCT: attempts that have a parent, in-flight ones included."""
        self._values: list[dict[str, int]] = [
            {variant: code for code, variant in enumerate(part.variants)} for part in menu.parts
        ]
        for attempt in attempts:
            self.record(attempt)

    def __len__(self) -> int:
        return len(self.attempts)

    def record(self, attempt: Attempt) -> None:
        """Append an attempt, or give a pending one its outcome.

        Raises ValueError where an outcome would be set twice to something else.
        """
        row = self.row.get(attempt.id)
        if row is None:
            self._append(attempt)
        else:
            self._settle(row, attempt)
        self.version += 1

    def encode(self, genes: Mapping[str, str]) -> list[int]:
        """Genes as numbers; a value the menu does not list gets a number of its own."""
        codes = []
        for part, values in zip(self.menu.parts, self._values, strict=True):
            gene = genes.get(part.name)
            codes.append(-1 if gene is None else values.setdefault(gene, len(values)))
        return codes

    def sizes(self) -> list[int]:
        """Per part the number of values met so far, the menu's included."""
        return [len(values) for values in self._values]

    def lineage_of(self, row: int) -> set[int]:
        """The row, its ancestors and its descendants: what the lineage block takes out."""
        family = {row}
        above = self.parent[row]
        while above >= 0:
            family.add(above)
            above = self.parent[above]
        below = {row}
        for later in range(row + 1, len(self)):
            if self.parent[later] in below:
                below.add(later)
        return family | below

    def branch(self, row: int) -> str:
        """Name of the row's family, the unit that a bootstrap resamples: its starting program.

        Where every program descends from one, as from a campaign's baseline, the families are
        that program's children, and decisions to edit it itself go by eights in time.
        """
        if self.parent.count(-1) > 1:
            return self.attempts[self.root[row]].id
        if self.parent[row] < 0:
            return f"{self.attempts[row].id}/{len(self) // 8}"
        while self.depth[row] > 1:
            row = self.parent[row]
        return self.attempts[row].id

    def valid_rows(self) -> list[int]:
        """Rows that can be parents: valid, one per program, in order of arrival."""
        programs: set[str] = set()
        rows = []
        for row, attempt in enumerate(self.attempts):
            if attempt.outcome is Outcome.VALID and attempt.program not in programs:
                programs.add(attempt.program)
                rows.append(row)
        return rows

    def rewards(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Rewards of valid rows, shape (len(rows),)."""
        return np.array([self.attempts[row].reward for row in rows], dtype=np.float64)

    def candidate(self, row: int) -> Candidate:
        """One row as a value for people and logs. Raises ValueError if it is not valid."""
        attempt = self.attempts[row]
        if attempt.reward is None:
            raise ValueError(f"attempt {attempt.id} is {attempt.outcome}, not a candidate")
        best = self.best_child[row]
        return Candidate(
            id=attempt.id,
            parent=attempt.parent,
            reward=attempt.reward,
            valid=True,
            visits=self.visits[row],
            children=self.children[row],
            in_flight=self.in_flight[row],
            best_child=None if best == -np.inf else best,
            lineage=self.attempts[self.root[row]].id,
            depth=self.depth[row],
            features=attempt.features,
        )

    def _append(self, attempt: Attempt) -> None:
        row = len(self.attempts)
        above = -1 if attempt.parent is None else self.row.get(attempt.parent, -1)
        self.attempts.append(attempt)
        self.row[attempt.id] = row
        self.parent.append(above)
        self.visits.append(0)
        self.children.append(0)
        self.in_flight.append(0)
        self.best_child.append(-np.inf)
        self.depth.append(0 if above < 0 else self.depth[above] + 1)
        self.root.append(row if above < 0 else self.root[above])
        self.codes.append(self.encode(attempt.genes))
        if attempt.outcome is Outcome.LOST:
            return
        self.seen.setdefault(tuple(self.codes[row]), row)
        if above < 0:
            return
        self.expansions += 1
        self.children[above] += 1
        if attempt.outcome is Outcome.PENDING:
            self.in_flight[above] += 1
        elif attempt.reward is not None:
            self.best_child[above] = max(self.best_child[above], attempt.reward)
        self._visit(above, 1)

    def _settle(self, row: int, attempt: Attempt) -> None:
        known = self.attempts[row]
        if known.outcome is not Outcome.PENDING:
            if known == attempt:
                return
            raise ValueError(f"attempt {attempt.id} already ended as {known.outcome}")
        self.attempts[row] = attempt
        if attempt.outcome is Outcome.PENDING:
            return
        self._unsee(row)
        self.codes[row] = self.encode(attempt.genes)
        if attempt.outcome is not Outcome.LOST:
            self.seen.setdefault(tuple(self.codes[row]), row)
        above = self.parent[row]
        if above < 0:
            return
        self.in_flight[above] -= 1
        if attempt.outcome is Outcome.LOST:
            self.expansions -= 1
            self.children[above] -= 1
            self._visit(above, -1)
        elif attempt.reward is not None:
            self.best_child[above] = max(self.best_child[above], attempt.reward)

    def _unsee(self, row: int) -> None:
        key = tuple(self.codes[row])
        if self.seen.get(key) == row:
            del self.seen[key]

    def _visit(self, row: int, by: int) -> None:
        while row >= 0:
            self.visits[row] += by
            row = self.parent[row]
