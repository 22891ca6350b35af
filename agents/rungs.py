"""Promotion between the two rungs of a campaign, from what it has seen on both."""

import threading
from dataclasses import dataclass, field

from nightlab.agents import judge
from nightlab.agents.lab import Lab
from nightlab.evals.rungs import MIN_PROGRAMS, RungLink, even_share, margins
from nightlab.evals.statistics import ScreenRule
from nightlab.memory.records import Experiment
from nightlab.vocabulary import Purpose


@dataclass
class Rungs:
    """How well the screening rung ranks for the confirmation rung."""

    lab: Lab
    _seen: dict[str, tuple[float, float]] | None = None
    """Experiment to its gains over the incumbent of its time, on the lower and higher rung."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def link(self) -> RungLink | None:
        """From every program that ran on both rungs; None where there is one rung only."""
        if self.lab.plan.screen == self.lab.plan.confirm:
            return None
        with self._lock:
            seen = self._all().values()
            return RungLink.measure([low for low, _ in seen], [high for _, high in seen])

    def rule(self) -> ScreenRule:
        """The margins to screen with at present.

        They are widened only while confirmations have taken no more time than screening has:
        beyond its even share a rung takes what is clearly better, and nothing on the off chance.
        """
        link = self.link()
        if link is not None and not even_share(*self._seconds()):
            return judge.SCREEN_RULE
        return margins(link, judge.SCREEN_RULE)

    def learn(self, experiment: str) -> None:
        """Take in a concluded experiment, and say in the log what that changed."""
        if self.lab.plan.screen == self.lab.plan.confirm:
            return
        found = self._gains(self.lab.ledger.experiment(experiment))
        with self._lock:
            known = self._all()
            if found is None or known.get(experiment) == found:
                return
            known[experiment] = found
        self.lab.log("rungs", self.describe(), experiment)

    def describe(self) -> str:
        """The link and the margins that follow from it, in one line."""
        link, rule = self.link(), self.rule()
        cut = " and ".join(f"{margin:.2f}" for margin in rule.margins)
        low, high = self.lab.plan.screen.name, self.lab.plan.confirm.name
        if link is None:
            return f"one rung: margins {cut} sigmas"
        said = f"{link.programs} programs ran on {low} and {high}"
        if not even_share(*self._seconds()):
            return f"{said}; {high} has had more time than {low}: margins {cut} sigmas"
        if link.programs < MIN_PROGRAMS:
            return f"{said}, {MIN_PROGRAMS} are needed to compare their ranks: margins {cut} sigmas"
        ranks = f"rank correlation {link.correlation:.2f} [{link.low:.2f}, {link.high:.2f}]"
        return f"{said}, {ranks}: margins {cut} sigmas"

    def _seconds(self) -> tuple[float, float]:
        """Time that screening and confirmations have taken so far."""
        spent = dict.fromkeys((Purpose.SCREEN, Purpose.CONFIRM), 0.0)
        for trial in self.lab.ledger.trials(campaign=self.lab.campaign.id):
            if trial.purpose in spent:
                spent[trial.purpose] += trial.total_seconds or 0.0
        return spent[Purpose.SCREEN], spent[Purpose.CONFIRM]

    def _all(self) -> dict[str, tuple[float, float]]:
        """What the ledger knows, read once; the caller holds the lock."""
        if self._seen is None:
            rows = self.lab.ledger.experiments(self.lab.campaign.id)
            found = {row.id: self._gains(row) for row in rows if row.number > 0}
            self._seen = {name: pair for name, pair in found.items() if pair is not None}
        return self._seen

    def _gains(self, row: Experiment) -> tuple[float, float] | None:
        """Mean gains of one experiment on the two rungs; None where either is missing."""
        against, high = row.estimate.against, row.estimate.gain
        if against is None or high is None or row.estimate.rung != self.lab.plan.confirm.name:
            return None
        low = judge.screening_gain(self.lab, row.id, against)
        return None if low is None else (low, high)
