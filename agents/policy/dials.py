"""A well-kept optimizer as one more author: optuna's TPE or CMA-ES over the dials.

It sees what the campaign measured at each setting of the dials (the ordered parts) and suggests
a whole new setting; the other parts stay as the parent has them. Optuna is imported on first use.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from nightlab.errors import MissingError

if TYPE_CHECKING:
    from nightlab.agents.policy.situation import Situation

OPTIMIZERS = ("tpe", "cmaes")
"""Names of the authors of this module."""

HISTORY = 200
"""Latest measured programs that the optimizer is shown."""


def suggest(
    author: str, situation: "Situation", row: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """(dial, value) pairs that differ from the candidate in ``row``; at least one.

    What the optimizer suggests and the archive already holds is moved one step on a dial drawn
    at random, because repeating a program is a waste.
    """
    archive = situation.archive
    dials = [place for place, part in enumerate(archive.menu.parts) if part.ordered]
    now = situation.codes[row]
    wanted = now.copy()
    wanted[dials] = _ask(author, situation, dials, rng)
    for _ in range(20):
        if not (wanted == now).all() and tuple(wanted.tolist()) not in archive.seen:
            break
        dial = int(rng.choice(dials))
        wanted[dial] = int(rng.integers(len(archive.menu.parts[dial].variants)))
    parts = archive.menu.parts
    return [
        (parts[dial].name, parts[dial].variants[wanted[dial]])
        for dial in dials
        if wanted[dial] != now[dial]
    ] or [_move(situation, dials, now, rng)]


def _move(
    situation: "Situation",
    dials: list[int],
    now: np.ndarray[tuple[int], np.dtype[np.int64]],
    rng: np.random.Generator,
) -> tuple[str, str]:
    dial = int(rng.choice(dials))
    part = situation.archive.menu.parts[dial]
    others = [value for code, value in enumerate(part.variants) if code != now[dial]]
    return part.name, str(rng.choice(others or list(part.variants)))


def _ask(
    author: str, situation: "Situation", dials: list[int], rng: np.random.Generator
) -> list[int]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parts = situation.archive.menu.parts
    space: dict[str, optuna.distributions.BaseDistribution] = {
        parts[dial].name: optuna.distributions.IntDistribution(0, len(parts[dial].variants) - 1)
        for dial in dials
    }
    if author == "cmaes" and find_spec("cmaes") is None:
        raise MissingError("The author cmaes needs the package cmaes: pip install cmaes.")
    seed = int(rng.integers(2**31))
    sampler: optuna.samplers.BaseSampler = (
        optuna.samplers.TPESampler(seed=seed, multivariate=True)
        if author == "tpe"
        else optuna.samplers.CmaEsSampler(seed=seed)
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    attempts, codes = situation.archive.attempts, situation.archive.codes
    valid = [r for r, attempt in enumerate(attempts) if attempt.reward is not None][-HISTORY:]
    for measured in valid:
        values = {parts[dial].name: codes[measured][dial] for dial in dials}
        if all(0 <= values[p.name] < len(p.variants) for p in parts if p.ordered):
            study.add_trial(
                optuna.trial.create_trial(
                    params=values, distributions=space, value=attempts[measured].reward
                )
            )
    trial = study.ask(space)
    return [int(trial.params[parts[dial].name]) for dial in dials]
