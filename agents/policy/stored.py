"""Policies on disk: weights as safetensors, the rest as JSON."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from nightlab.agents.policy.actor_critic import NAME, ActorCritic
from nightlab.agents.policy.bandit import PuctThompson
from nightlab.agents.policy.decisions import Head
from nightlab.agents.policy.features import PARENT
from nightlab.agents.policy.network import MEMBERS, Weights, fresh
from nightlab.agents.policy.surrogate import Kernel
from nightlab.agents.policy.training import Moments
from nightlab.errors import MissingError

WARM = "warm.safetensors"
UNSEEN = ("nerve_first", "nerve_middle", "nerve_last")
"""Features that the simulated campaigns behind the shipped weights do not have."""


def write(path: Path, weights: Weights, about: dict[str, str] | None = None) -> None:
    """Write arrays with optional notes in the header."""
    from safetensors.numpy import save_file

    save_file(weights, path, metadata=about)


def read(path: Path) -> tuple[Weights, dict[str, str]]:
    """Arrays and notes. Raises MissingError where there is no such file."""
    from safetensors import safe_open

    if not path.is_file():
        raise MissingError(f"There are no policy weights at {path}.")
    with safe_open(path, framework="numpy") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return weights, dict(file.metadata() or {})


def load(folder: Path) -> PuctThompson | ActorCritic:
    """The policy that ``save`` wrote, ready to go on exactly where it was."""
    path = folder / "policy.json"
    if not path.is_file():
        raise MissingError(f"There is no stored policy in {folder}.")
    state = json.loads(path.read_text())
    if state["policy"] != NAME:
        return bandit()
    weights = folder / "weights.safetensors"
    policy = ActorCritic(read(weights)[0] if weights.is_file() else None, version=state["version"])
    policy.candidate = read(folder / "candidate.safetensors")[0]
    moments = read(folder / "moments.safetensors")[0]
    policy.moments = Moments(
        {name: moments[f"{name}.m"] for name in policy.candidate},
        {name: moments[f"{name}.v"] for name in policy.candidate},
        state["steps"],
    )
    policy.updates, policy.adoptions = state["updates"], state["adoptions"]
    return policy


def warm() -> ActorCritic:
    """The policy that ships with the package, pre-trained on simulated and recorded campaigns."""
    weights, about = read(warm_path())
    return ActorCritic(deaf(weights, UNSEEN), version=about["version"])


def deaf(weights: Weights, names: Sequence[str]) -> Weights:
    """The same weights without those from a parent's features that training never saw: they are
    still their random start, and learning begins them at zero."""
    rows = [PARENT.index(name) for name in names]
    changed = dict(weights)
    for name in (f"{Head.PARENT}.1", *(f"critic{member}.1" for member in range(MEMBERS))):
        changed[name] = weights[name].copy()
        changed[name][rows] = 0.0
    return changed


def warm_path() -> Path:
    """Where the weights that ship with the package lie."""
    return Path(str(resources.files("nightlab.agents.policy"))) / WARM


def bandit() -> PuctThompson:
    """The policy without weights. It logs the surrogate's forecasts, which it does not read, so
    that its decisions can teach one that does."""
    return PuctThompson(Kernel())


def cold(seed: int = 0) -> ActorCritic:
    """A policy that starts as the bandit and learns from its own campaigns only."""
    del seed
    return ActorCritic(None)


def compatible(weights: Weights) -> bool:
    """Whether arrays have the names and shapes of this version's network."""
    wanted = fresh(0)
    return {n: w.shape for n, w in weights.items()} == {n: w.shape for n, w in wanted.items()}
