"""When a training run reports its spectra: early once, then on a grid of steps that widens.

Steps and not shares of the budget, because reports of two programs are compared at equal steps.
"""

from nightlab.kernels.spectra.recorder import EVERY

FIRST = EVERY // 5
"""The first report comes early, so that short runs have a step in common."""
REPORTS = 24
"""Reports at one cadence; then it is halved, so that a long run leaves few more."""
TOKENS = 160
"""N of a report: fewer than a recorder's default, so that the shortest rung can afford two."""
SHARE = 0.006
"""Largest share of a run's CPU time for reports on the way; the one at its end costs the rest of
the hundredth that spectra may take."""


class Cadence:
    """The steps of one run at which it reports."""

    def __init__(self) -> None:
        self._every, self._reports = EVERY, 0

    def due(self, step: int) -> bool:
        """Whether a report is due before update ``step`` + 1."""
        return step == FIRST or (step > 0 and step % self._every == 0)

    def reported(self) -> None:
        """Count a report."""
        self._reports += 1
        if self._reports == REPORTS:
            self._every, self._reports = 2 * self._every, 0


def reports(steps: int) -> int:
    """Reports on the way of a run of so many updates, if its share of CPU time allows them."""
    cadence, count = Cadence(), 0
    for step in range(steps):
        if cadence.due(step):
            cadence.reported()
            count += 1
    return count
