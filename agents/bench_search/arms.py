"""The arms that do not learn. Each looks at programs until the objective says that it is over."""

from collections import deque
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import numpy as np

from nightlab.agents.bench_search.objective import Cell, Objective
from nightlab.errors import MissingError

Arm = Callable[[Objective, np.random.Generator], None]
"""Runs one campaign; ends by the objective's ``SpentError``."""


def random_cell(shape: Cell, rng: np.random.Generator) -> Cell:
    return tuple(int(rng.integers(size)) for size in shape)


def neighbours(cell: Cell, shape: Cell) -> list[Cell]:
    """Every program one edit away."""
    return [
        (*cell[:part], value, *cell[part + 1 :])
        for part, size in enumerate(shape)
        for value in range(size)
        if value != cell[part]
    ]


def mutated(cell: Cell, shape: Cell, rng: np.random.Generator) -> Cell:
    """One random edit."""
    around = neighbours(cell, shape)
    return around[int(rng.integers(len(around)))]


def random_search(objective: Objective, rng: np.random.Generator) -> None:
    """Uniform, without replacement."""
    for index in rng.permutation(int(np.prod(objective.shape))):
        objective.look(tuple(int(i) for i in np.unravel_index(index, objective.shape)))


def local_search(objective: Objective, rng: np.random.Generator) -> None:
    """Random start, first improvement over all one-edit neighbours in random order, restart."""
    while True:
        here = random_cell(objective.shape, rng)
        score = objective.look(here)
        improved = True
        while improved:
            improved = False
            around = neighbours(here, objective.shape)
            for place in rng.permutation(len(around)):
                other = objective.look(around[place])
                if other > score:
                    here, score, improved = around[place], other, True
                    break


def regularized_evolution(
    objective: Objective, rng: np.random.Generator, population: int = 20, tournament: int = 5
) -> None:
    """Ageing evolution: FIFO population, best of a random tournament, one edit."""
    alive: deque[tuple[float, Cell]] = deque(maxlen=population)
    while True:
        if len(alive) < population:
            cell = random_cell(objective.shape, rng)
        else:
            drawn = [alive[int(i)] for i in rng.integers(population, size=tournament)]
            cell = mutated(max(drawn)[1], objective.shape, rng)
        alive.append((objective.look(cell), cell))


def puct_unlearned(objective: Objective, rng: np.random.Generator, seeds: int = 8) -> None:
    """PUCT parents (c = 1) with a blind one-edit mutation."""
    cells: list[Cell] = []
    scores: list[float] = []
    above: list[int] = []
    child: list[float] = []
    visits: list[int] = []
    while True:
        parent = -1
        if len(cells) < seeds:
            cell = random_cell(objective.shape, rng)
        else:
            parent = _puct_argmax(np.array(scores), np.array(child), np.array(visits))
            cell = mutated(cells[parent], objective.shape, rng)
        score = objective.look(cell)
        row = parent
        if parent >= 0:
            child[parent] = max(child[parent], score)
        while row >= 0:
            visits[row] += 1
            row = above[row]
        cells.append(cell)
        scores.append(score)
        above.append(parent)
        child.append(-np.inf)
        visits.append(0)


def _puct_argmax(
    scores: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    child: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    visits: "np.ndarray[tuple[int], np.dtype[np.int64]]",
) -> int:
    count = len(scores)
    rank = np.empty(count)
    rank[np.argsort(-scores, kind="stable")] = np.arange(count)
    prior = (count - rank) / (count * (count + 1) / 2)
    quality = np.where(np.isfinite(child), child, scores)
    span = max(float(np.ptp(scores)), 1e-6)
    total = visits.sum()
    return int(np.argmax(quality + span * prior * np.sqrt(1 + total) / (1 + visits)))


def shinka_weighted(
    objective: Objective, rng: np.random.Generator, archive: int = 40, seeds: int = 8
) -> None:
    """ShinkaEvolve's ``weighted`` parents: sigmoid over the archive's median, fewest children."""
    cells: list[Cell] = []
    scores: list[float] = []
    children: list[int] = []
    while True:
        if len(cells) < seeds:
            cell = random_cell(objective.shape, rng)
        else:
            kept = np.argsort(-np.array(scores), kind="stable")[:archive]
            value = np.array(scores)[kept]
            median = np.median(value)
            mad = max(float(np.median(np.abs(value - median))), 1e-6)
            bounded = np.clip(10.0 * (value - median) / mad, -500.0, 500.0)
            weight = 1.0 / (1.0 + np.exp(-bounded)) / (1.0 + np.array(children)[kept])
            parent = int(rng.choice(kept, p=weight / weight.sum()))
            children[parent] += 1
            cell = mutated(cells[parent], objective.shape, rng)
        cells.append(cell)
        scores.append(objective.look(cell))
        children.append(0)


def _optuna(objective: Objective, rng: np.random.Generator, name: str) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = int(rng.integers(2**31))
    sampler: optuna.samplers.BaseSampler
    if name == "tpe":
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    else:
        if find_spec("cmaes") is None:
            raise MissingError("The CMA-ES arm needs the package cmaes: pip install cmaes.")
        # a relaxation: CMA-ES knows no categories, so variants stand in the menu's order
        sampler = optuna.samplers.CmaEsSampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    parts = objective.table.parts
    while True:
        trial = study.ask()
        if name == "tpe":
            cell = tuple(
                int(trial.suggest_categorical(part.name, list(range(len(part.variants)))))
                for part in parts
            )
        else:
            cell = tuple(trial.suggest_int(p.name, 0, len(p.variants) - 1) for p in parts)
        study.tell(trial, objective.look(cell))


def tpe(objective: Objective, rng: np.random.Generator) -> None:
    """Optuna's multivariate TPE over categories."""
    _optuna(objective, rng, "tpe")


def cmaes(objective: Objective, rng: np.random.Generator) -> None:
    """Optuna's CMA-ES over the variants' places in the menu."""
    _optuna(objective, rng, "cmaes")


BASELINES: Mapping[str, Arm] = {
    "random": random_search,
    "local search": local_search,
    "regularized evolution": regularized_evolution,
    "tpe": tpe,
    "cma-es": cmaes,
    "puct": puct_unlearned,
    "shinka weighted": shinka_weighted,
}
"""Arm name to arm, none of which learns between campaigns."""
