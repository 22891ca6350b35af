"""Carrying the policy over: from the package, from earlier campaigns, and through a crash."""

import os
import shutil
import tempfile
from pathlib import Path

from nightlab.agents.policy.actor_critic import ActorCritic
from nightlab.agents.policy.bandit import PuctThompson
from nightlab.agents.policy.interface import Policy
from nightlab.agents.policy.network import Weights
from nightlab.agents.policy.stored import bandit, cold, load, read, warm, warm_path, write
from nightlab.vocabulary import Beginning

STATE = "policy.json"
LEARNED = "learned"
"""Where ``nightlab learn`` keeps what it made, beside the campaigns' own."""
VERSIONS = "versions"
"""Every set of weights that was in charge, so that an old decision can be explained."""


def beginning(home: Path, campaign: str, how: Beginning) -> Policy:
    """The policy of a campaign: its own where it was stored, else a new one.

    Raises:
        MissingError: the weights that ship with the package are gone.
    """
    own = _folder(home, campaign)
    if (own / STATE).is_file():
        return load(own)
    if how is Beginning.BANDIT:
        return bandit()
    if how is Beginning.COLD:
        return cold()
    return newest(home)


def newest(home: Path) -> PuctThompson | ActorCritic:
    """What was stored last on this machine, else what ships."""
    known = [path.parent for path in _folder(home, "").glob(f"*/{STATE}")]
    latest = max(known, key=lambda path: (path / STATE).stat().st_mtime, default=None)
    return warm() if latest is None else load(latest)


def store(policy: Policy, home: Path, campaign: str) -> None:
    """Keep a campaign's policy as it is now; a crash leaves the old one or the new one."""
    place = _folder(home, campaign)
    place.parent.mkdir(parents=True, exist_ok=True)
    _keep_version(policy, home, campaign)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=place.parent))
    policy.save(draft)
    if place.exists():
        old = Path(tempfile.mkdtemp(prefix=".old-", dir=place.parent))
        os.rename(place, old / "policy")
        os.rename(draft, place)
        shutil.rmtree(old)
    else:
        os.rename(draft, place)


def stored(home: Path, campaign: str) -> PuctThompson | ActorCritic | None:
    """A campaign's policy as it was stored last; None before its first record."""
    place = _folder(home, campaign)
    return load(place) if (place / STATE).is_file() else None


def weights_of(home: Path, campaign: str, version: str) -> Weights | None:
    """The weights of a version that was in charge; None for one without weights, or a lost one."""
    path = _version(home, campaign, version)
    if path.is_file():
        return read(path)[0]
    if warm_path().is_file():
        weights, about = read(warm_path())
        if about.get("version") == version:
            return weights
    return None


def _keep_version(policy: Policy, home: Path, campaign: str) -> None:
    if isinstance(policy, ActorCritic) and policy.weights is not None:
        path = _version(home, campaign, policy.version)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".draft")
            write(draft, policy.weights, {"version": policy.version})
            os.replace(draft, path)


def _version(home: Path, campaign: str, version: str) -> Path:
    return _folder(home, VERSIONS) / f"{campaign}-{version}.safetensors"


def _folder(home: Path, campaign: str) -> Path:
    return home / "policies" / campaign if campaign else home / "policies"
