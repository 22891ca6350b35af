"""Which tier to use: the strongest that is ready, and in words why not a stronger one."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from nightlab.errors import MissingError, UsageError
from nightlab.sandbox.protocol import Sandbox
from nightlab.vocabulary import Tier

AUTO = "auto"


@dataclass(frozen=True)
class Readiness:
    """Whether a tier can be used here, for people."""

    tier: Tier
    ready: bool
    reason: str
    """What it offers when it is ready; what is missing and how to get it when it is not."""


@dataclass(frozen=True)
class Choice:
    """A started tier."""

    sandbox: Sandbox
    why: tuple[str, ...]
    """One line for the log on this tier and on each stronger one that is not ready."""


def ready(tier: Tier) -> tuple[bool, str]:
    """Try a tier out; the second part is for people."""
    try:
        return True, _PROBES[tier]()
    except MissingError as missing:
        return False, str(missing)


def survey() -> list[Readiness]:
    """Every tier, strongest first."""
    return [Readiness(tier, *ready(tier)) for tier in Tier]


def require(name: str) -> str:
    """What a named tier offers here; nothing is started.

    Raises:
        UsageError: there is no such tier.
        MissingError: it is not ready; says how to make it so.
    """
    if name == AUTO:
        return "the strongest that is ready"
    if name not in [tier.value for tier in Tier]:
        raise UsageError(f"no sandbox tier {name!r}; there are auto, {', '.join(Tier)}")
    return _PROBES[Tier(name)]()


def choose(name: str) -> Choice:
    """Start a tier by name, or with ``auto`` the strongest that is ready.

    Raises:
        UsageError: there is no such tier.
        MissingError: the named tier is not ready; says how to make it so.
    """
    reason = require(name)
    if name == AUTO:
        return _strongest()
    return Choice(_start(Tier(name)), (f"{name}: {reason}",))


def _strongest() -> Choice:
    why: list[str] = []
    for tier in Tier:
        works, reason = ready(tier)
        if works:
            return Choice(_start(tier), (f"{tier}: {reason}", *why))
        why.append(f"{tier} is not ready: {reason}")
    raise AssertionError("the process tier is always ready")


def _start(tier: Tier) -> Sandbox:
    match tier:
        case Tier.DOCKER | Tier.DOCKER_RUNSC:
            from nightlab.sandbox.docker import DockerSandbox

            return DockerSandbox(tier)
        case Tier.BWRAP:
            from nightlab.sandbox.bwrap import BwrapSandbox

            return BwrapSandbox()
        case Tier.PROCESS:
            from nightlab.sandbox.process import ProcessSandbox

            return ProcessSandbox()


def _probe_docker() -> str:
    from nightlab.sandbox.docker import probe

    return probe(Tier.DOCKER)


def _probe_runsc() -> str:
    from nightlab.sandbox.docker import probe

    return probe(Tier.DOCKER_RUNSC)


def _probe_bwrap() -> str:
    if not sys.platform.startswith("linux"):
        raise MissingError("bubblewrap runs on Linux only")
    from nightlab.sandbox.bwrap import probe

    return probe()


def _probe_process() -> str:
    return "isolates nothing; runs programs made of catalogue operators only"


_PROBES: dict[Tier, Callable[[], str]] = {
    Tier.DOCKER_RUNSC: _probe_runsc,
    Tier.DOCKER: _probe_docker,
    Tier.BWRAP: _probe_bwrap,
    Tier.PROCESS: _probe_process,
}
