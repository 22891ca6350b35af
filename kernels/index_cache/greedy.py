"""Which layers can share: training-free greedy search on the end-to-end loss (reference 2.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nightlab.kernels.index_cache.pattern import IndexPattern

EvalLoss = Callable[[IndexPattern], float]


@dataclass(frozen=True)
class GreedyStep:
    """One committed layer."""

    pattern: IndexPattern
    layer: int
    """The layer turned from F to S."""
    loss: float
    """Loss of ``pattern`` on the calibration batches."""


@dataclass(frozen=True)
class GreedyResult:
    """A search's path from all F down; each step's F layers contain the next one's."""

    start_loss: float
    """Loss with an indexer in every layer."""
    steps: tuple[GreedyStep, ...]
    evaluations: int
    """Calls of ``eval_loss``, the first one on all F included."""
    n: int

    @property
    def pattern(self) -> IndexPattern:
        """The pattern with the fewest indexers."""
        return self.steps[-1].pattern if self.steps else IndexPattern.all_full(self.n)

    def at(self, keep: int) -> IndexPattern:
        """The nested pattern with ``keep`` F layers, between all F and what was searched."""
        return (
            self.steps[self.n - keep - 1].pattern
            if keep < self.n
            else IndexPattern.all_full(self.n)
        )


def greedy_search(
    eval_loss: EvalLoss,
    n: int,
    keep: int,
    *,
    lazy: bool = True,
    tolerance: float = 0.0,
    fixed: Sequence[int] = (),
) -> GreedyResult:
    """Turn n - keep layers from F to S, each time the one that hurts least.

    ``eval_loss`` must use the same calibration batches for every pattern. The full search measures
    every remaining layer at every step. The lazy one keeps each layer's last measured increase as a
    guess, re-measures the most promising layer only, and commits it while its fresh increase is at
    most the next guess plus ``tolerance``; it finds the full search's pattern whenever increases
    only grow as more layers share. Layer 0 and ``fixed`` stay F. ValueError if keep does not fit.
    """
    free = [layer for layer in range(1, n) if layer not in set(fixed)]
    if not n - len(free) <= keep <= n:
        raise ValueError(f"keep is in {n - len(free)}..{n}, got {keep}")
    search = _Search(eval_loss, n)
    guesses = dict.fromkeys(free, float("-inf"))
    for _ in range(n - keep):
        search.commit(*(_lazy_choice if lazy else _full_choice)(search, guesses, tolerance))
    return GreedyResult(search.start_loss, tuple(search.steps), search.evaluations, n)


class _Search:
    """The pattern so far, and a count of evaluations."""

    def __init__(self, eval_loss: EvalLoss, n: int) -> None:
        self._eval = eval_loss
        self.pattern = IndexPattern.all_full(n)
        self.evaluations = 1
        self.loss = self.start_loss = eval_loss(self.pattern)
        self.steps: list[GreedyStep] = []

    def try_sharing(self, layer: int) -> float:
        self.evaluations += 1
        return self._eval(self.pattern.with_shared(layer))

    def commit(self, layer: int, loss: float) -> None:
        self.pattern, self.loss = self.pattern.with_shared(layer), loss
        self.steps.append(GreedyStep(self.pattern, layer, loss))


def _full_choice(search: _Search, guesses: dict[int, float], _: float) -> tuple[int, float]:
    losses = {layer: search.try_sharing(layer) for layer in guesses}
    layer = min(losses, key=lambda each: (losses[each], each))
    del guesses[layer]
    return layer, losses[layer]


def _lazy_choice(search: _Search, guesses: dict[int, float], tolerance: float) -> tuple[int, float]:
    """The first layer whose fresh increase no other layer's guess undercuts."""
    fresh: dict[int, float] = {}
    while True:
        layer = min(guesses, key=lambda each: (guesses[each], each))
        if layer in fresh:
            break
        fresh[layer] = search.try_sharing(layer)
        guesses[layer] = fresh[layer] - search.loss
        rivals = [guess for other, guess in guesses.items() if other != layer]
        if not rivals or guesses[layer] <= min(rivals) + tolerance:
            break
    del guesses[layer]
    return layer, fresh[layer]
