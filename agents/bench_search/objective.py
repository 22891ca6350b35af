"""What an arm may do: look at programs until the budget is spent."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.bench_search.tables import Table

Floats = NDArray[np.float64]
Cell = tuple[int, ...]


class SpentError(Exception):
    """The budget does not pay for another look, or the best is found: the campaign is over."""


@dataclass(frozen=True)
class Trace:
    """One campaign."""

    cost: Floats
    """Cost after each look, shape (looks,), in full looks."""
    regret: Floats
    """True regret of the program the arm would hand over after each look."""


class Objective:
    """A table with a budget. A repeated look costs like a first one; that rule is for all arms.

    Once the best program is handed over nothing more can change (without noise), so the campaign
    ends there: its regret is 0 at every later budget.

    After each look the arm hands over a program: by default the one with the best full look so
    far; an arm may say another by setting ``recommended``.
    """

    def __init__(
        self, table: Table, budget: float, rng: np.random.Generator, noisy: bool = False
    ) -> None:
        if noisy and table.seeds is None:
            raise ValueError(f"table {table.name} has one score per program: nothing is noisy")
        self.table = table
        self.budget = budget
        self.noisy = noisy
        self.spent = 0.0
        self.recommended: Cell | None = None
        self._rng = rng
        self._best = -np.inf
        self._cost: list[float] = []
        self._regret: list[float] = []
        self._held: Cell | None = None

    @property
    def shape(self) -> Cell:
        return self.table.shape

    @property
    def left(self) -> float:
        """Share of the budget that is left, in [0, 1]."""
        return max(0.0, 1.0 - self.spent / self.budget)

    def look(self, cell: Cell, low: bool = False) -> float:
        """Score of a program. Raises SpentError where the campaign is over."""
        cost = self.table.low_cost if low else 1.0
        if self.spent + cost > self.budget + 1e-9:
            raise SpentError
        self.spent += cost
        score = self._score(cell, low)
        if not low and score > self._best:
            self._best, self._held = score, cell
        self._cost.append(self.spent)
        self._note()
        if self._regret[-1] <= 0.0 and not self.noisy:
            raise SpentError
        return score

    def recommend(self, cell: Cell) -> None:
        """Hand over this program from the latest look on."""
        self.recommended = cell
        self._regret.pop()
        self._note()

    def trace(self) -> Trace:
        """The campaign so far."""
        return Trace(np.array(self._cost), np.array(self._regret))

    def _score(self, cell: Cell, low: bool) -> float:
        if low:
            if self.table.low is None:
                raise ValueError(f"table {self.table.name} has no cheap look")
            return float(self.table.low[cell])
        if self.noisy and self.table.seeds is not None:
            return float(self._rng.choice(self.table.seeds[cell]))
        return float(self.table.values[cell])

    def _note(self) -> None:
        held = self.recommended or self._held
        value = self.table.values.min() if held is None else self.table.values[held]
        self._regret.append(self.table.best - float(value))
