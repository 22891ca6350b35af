"""Trials that what is under way may still need, so that a budget of trials holds to the trial."""

import threading
from dataclasses import dataclass, field

from nightlab.evals.statistics import PairedRule, ScreenRule

SCREENS = len(ScreenRule().margins)
"""Trials that one experiment's screening may take."""
PAIRS = PairedRule().min_pairs
"""Pairs that a confirmation needs at the least."""


@dataclass
class Promises:
    """How many trials each experiment under way may still use; harmless to repeat."""

    _trials: dict[str, int] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def screening(self, experiment: str, done: int = 0) -> None:
        """It may screen so often, of which so many trials are done."""
        self._set(experiment, SCREENS - done)

    def confirming(self, experiment: str, pairs: int) -> None:
        """It confirms and has so many pairs: the least that a confirmation needs, then one more
        pair at a time."""
        self._set(experiment, 2 * max(PAIRS - pairs, 1))

    def end(self, experiment: str) -> None:
        """It needs no more."""
        self._set(experiment, 0)

    def others(self, experiment: str | None = None) -> int:
        """Trials promised to all but this one."""
        with self._guard:
            return sum(count for name, count in self._trials.items() if name != experiment)

    def _set(self, experiment: str, trials: int) -> None:
        with self._guard:
            self._trials[experiment] = max(0, trials)
