"""Carrying the policy over: from the package, from earlier campaigns, and through a crash."""

import os
import shutil
import tempfile
from pathlib import Path

from nightlab.agents.policy.bandit import PuctThompson
from nightlab.agents.policy.interface import Policy
from nightlab.agents.policy.stored import cold, load, warm
from nightlab.vocabulary import Beginning

STATE = "policy.json"


def beginning(home: Path, campaign: str, how: Beginning) -> Policy:
    """The policy of a campaign: its own where it was stored, else a new one.

    Raises:
        MissingError: the weights that ship with the package are gone.
    """
    own = _folder(home, campaign)
    if (own / STATE).is_file():
        return load(own)
    if how is Beginning.BANDIT:
        return PuctThompson()
    if how is Beginning.COLD:
        return cold()
    stored = [path.parent for path in _folder(home, "").glob(f"*/{STATE}")]
    newest = max(stored, key=lambda path: (path / STATE).stat().st_mtime, default=None)
    return warm() if newest is None else load(newest)


def store(policy: Policy, home: Path, campaign: str) -> None:
    """Keep a campaign's policy as it is now; a crash leaves the old one or the new one."""
    place = _folder(home, campaign)
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=place.parent))
    policy.save(draft)
    if place.exists():
        old = Path(tempfile.mkdtemp(prefix=".old-", dir=place.parent))
        os.rename(place, old / "policy")
        os.rename(draft, place)
        shutil.rmtree(old)
    else:
        os.rename(draft, place)


def _folder(home: Path, campaign: str) -> Path:
    return home / "policies" / campaign if campaign else home / "policies"
