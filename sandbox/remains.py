"""What this process has on the host at the moment, by name: for checking that it leaves nothing.

Folders, control groups, and in the tiers that have an engine its containers and volumes.
"""

import contextlib
import os
import tempfile
from pathlib import Path

from nightlab.sandbox import cgroup, leftovers, reaper
from nightlab.vocabulary import Tier

KINDS = ("bwrap", "process", "outputs", "selftest", "cell")


def of_this_process(tier: Tier) -> frozenset[str]:
    """Names of all that bears this process's mark. Raises SandboxError if an engine is silent."""
    places = {Path(tempfile.gettempdir())}
    if (group := cgroup.find()) is not None:
        places |= set(group.parents.values())
    stems = tuple(leftovers.stem(kind) for kind in KINDS)
    found = {entry.name for place in places for entry in os.scandir(place)}
    mine = {name for name in found if name.startswith(stems)}
    return frozenset(mine | (_in_engine() if tier in (Tier.DOCKER, Tier.DOCKER_RUNSC) else set()))


def _in_engine() -> set[str]:
    from nightlab.sandbox.docker import Engine

    me = reaper.owner()
    with contextlib.closing(Engine()) as engine:
        return {
            f"{thing.kind} {thing.name}"
            for thing in engine.owned()
            if thing.labels.get(reaper.OWNER_LABEL) == me
        }
