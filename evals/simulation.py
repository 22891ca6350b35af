"""Simulated campaigns with a known answer: null edits to refuse, planted gains to keep.

The unit of every effect is the sigma of the noise floor: the seed-to-seed standard deviation of
one trial. The simulation calls the product's own rules on arrays with one row per campaign.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nightlab.evals.statistics import FalseKeepBudget, PairedRule, ScreenRule
from nightlab.evals.statistics.noise import UNSTABLE_VARIANCE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class World:
    """How the noise of a simulated lab behaves."""

    name: str
    challenger_variance: float = 1.0
    """Seed variance of every challenger, in multiples of the incumbent's."""
    correlation: float = 0.0
    """Between the two trials of a pair, from the shared seed and data order."""
    tail_df: float = math.inf
    """Degrees of freedom of Student noise, scaled to unit variance; infinite is normal."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Noise of unit variance."""
        if math.isinf(self.tail_df):
            return rng.standard_normal(shape)
        return rng.standard_t(self.tail_df, shape) * math.sqrt(1 - 2 / self.tail_df)

    def trials(self, rng: np.random.Generator, seeds: Floats, variance: float) -> Floats:
        """Scores on seeds whose shared effect is ``seeds``, of the given variance."""
        own = self.draw(rng, seeds.shape)
        mixed = math.sqrt(self.correlation) * seeds + math.sqrt(1 - self.correlation) * own
        return math.sqrt(variance) * mixed


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """The rules of a campaign, as the product applies them."""

    edits: int = 300
    floor_trials: int = 5
    """Identical baseline trials before anything is judged."""
    screen_seeds: int = 3
    """Screening seeds in rotation; the incumbent is trained once on each."""
    screen: ScreenRule = field(default_factory=ScreenRule)
    paired: PairedRule = field(default_factory=PairedRule)
    budget: FalseKeepBudget = field(default_factory=FalseKeepBudget)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What happened, one entry per simulated campaign."""

    false_keeps: Ints
    """Null edits kept."""
    confirmations: Ints
    trials: Ints
    """All trials: floor, screens and both arms of every pair."""
    found: NDArray[np.bool_]
    """Whether the planted edit was kept (false where nothing is planted)."""
    planted_trials: Ints
    """Trials spent on the planted edit."""
    planted_screen: Floats
    """Mean screening gain of the planted edit when promoted, else NaN."""
    planted_estimate: Floats
    """Its confirmed mean gain when kept, else NaN."""
    planted_covered: Floats
    """1 or 0: whether the 95 % interval of a kept planted edit held the truth; NaN if not kept."""


class Campaigns:
    """Many campaigns side by side; ``run`` plays them to the end."""

    def __init__(
        self,
        world: World,
        procedure: Procedure,
        campaigns: int,
        rng: np.random.Generator,
        effect: float = 0.0,
    ) -> None:
        """``effect``: the planted gain in sigmas at one random place; 0 plants nothing."""
        self.world, self.procedure, self.rng, self.effect = world, procedure, rng, effect
        self.size = campaigns
        floor = world.draw(rng, (campaigns, procedure.floor_trials))
        self.floor_variance = 2 * floor.var(axis=1, ddof=1)
        self.df = np.full(campaigns, procedure.floor_trials - 1.0)
        self.squares = self.floor_variance * self.df
        self.alphas = np.array([procedure.budget.alpha(j + 1) for j in range(procedure.edits)])
        shape = (campaigns, procedure.screen_seeds)
        self.seeds, self.incumbent = np.empty(shape), np.empty(shape)
        self.trials = np.full(campaigns, procedure.floor_trials)
        self._train_incumbent(np.arange(campaigns))
        self.place = rng.integers(procedure.edits, size=campaigns)
        self.confirmations = np.zeros(campaigns, dtype=np.int64)
        self.false_keeps = np.zeros(campaigns, dtype=np.int64)
        self.planted_trials = np.zeros(campaigns, dtype=np.int64)
        self.found = np.zeros(campaigns, dtype=np.bool_)
        self.screened, self.estimate, self.covered = np.full((3, campaigns), np.nan)

    def run(self) -> Outcome:
        """Play every edit of every campaign."""
        for edit in range(self.procedure.edits):
            before = self.trials.copy()
            gain = np.where((self.place == edit) & (self.effect != 0), self.effect, 0.0)
            self._confirm(self._screen(edit, gain), gain)
            planted = gain != 0
            self.planted_trials[planted] = (self.trials - before)[planted]
        return Outcome(
            false_keeps=self.false_keeps,
            confirmations=self.confirmations,
            trials=self.trials,
            found=self.found,
            planted_trials=self.planted_trials,
            planted_screen=self.screened,
            planted_estimate=self.estimate,
            planted_covered=self.covered,
        )

    def _train_incumbent(self, rows: Ints) -> None:
        """Train the (new) incumbent of some campaigns on fresh screening seeds."""
        self.seeds[rows] = self.world.draw(self.rng, (rows.size, self.seeds.shape[1]))
        self.incumbent[rows] = self.world.trials(self.rng, self.seeds[rows], 1.0)
        self.trials[rows] += self.seeds.shape[1]

    @property
    def _paired_sd(self) -> Floats:
        paired_sd: Floats = np.sqrt(self.squares / self.df)
        return paired_sd

    def _screen(self, edit: int, gain: Floats) -> Ints:
        """Campaigns that promote their ``edit``-th edit."""
        rows, promoted = np.arange(self.size), []
        gains = np.empty((self.size, 0))
        for trial in range(len(self.procedure.screen.margins)):
            column = (edit + trial) % self.seeds.shape[1]
            score = self.world.trials(
                self.rng, self.seeds[rows, column], self.world.challenger_variance
            )
            self.trials[rows] += 1
            new = gain[rows] + score - self.incumbent[rows, column]
            gains = np.concatenate([gains, new[:, None]], axis=1)
            verdict = self.procedure.screen.judge(gains, self._paired_sd[rows])
            self.screened[rows[verdict > 0]] = self._planted_mean(
                rows[verdict > 0], gain, gains[verdict > 0]
            )
            promoted.append(rows[verdict > 0])
            rows, gains = rows[verdict == 0], gains[verdict == 0]
        return np.sort(np.concatenate(promoted))

    def _planted_mean(self, rows: Ints, gain: Floats, gains: Floats) -> Floats:
        return np.where(gain[rows] != 0, gains.mean(axis=1), self.screened[rows])

    def _confirm(self, rows: Ints, gain: Floats) -> None:
        """Fresh pairs for the promoted edits until each is kept or dropped."""
        self.confirmations[rows] += 1
        gains = np.empty((rows.size, 0))
        while rows.size:
            self.trials[rows] += 2
            seeds = self.world.draw(self.rng, rows.shape)
            challenger = self.world.trials(self.rng, seeds, self.world.challenger_variance)
            incumbent = self.world.trials(self.rng, seeds, 1.0)
            new = gain[rows] + challenger - incumbent
            gains = np.concatenate([gains, new[:, None]], axis=1)
            verdict = self.procedure.paired.judge(
                gains,
                self.alphas[self.confirmations[rows] - 1],
                self._paired_sd[rows],
                self.df[rows],
            )
            self._finish(rows[verdict != 0], gain, gains[verdict != 0], verdict[verdict != 0] > 0)
            rows, gains = rows[verdict == 0], gains[verdict == 0]

    def _finish(self, rows: Ints, gain: Floats, gains: Floats, kept: NDArray[np.bool_]) -> None:
        """Book ended confirmations, refine the noise floor, train new incumbents."""
        planted = gain[rows] != 0
        self.false_keeps[rows[kept & ~planted]] += 1
        hit = kept & planted
        self.found[rows[hit]] = True
        self.estimate[rows[hit]] = gains[hit].mean(axis=1)
        half = self.procedure.paired.half_width(
            self.procedure.paired.moderate(gains, self._paired_sd[rows], self.df[rows]), 0.95
        )
        error = np.abs(gains.mean(axis=1) - gain[rows])
        self.covered[rows[hit]] = (error <= half)[hit]
        if gains.shape[1] > 1:
            cap = UNSTABLE_VARIANCE * self.floor_variance[rows]
            spread = np.minimum(gains.var(axis=1, ddof=1), cap)
            self.squares[rows] += spread * (gains.shape[1] - 1)
            self.df[rows] += gains.shape[1] - 1
        if kept.any():
            self._train_incumbent(rows[kept])
