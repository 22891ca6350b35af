"""Tiers under test. With CI=true a tier that is not ready is a failure, elsewhere a skip.

A test that takes ``bench`` or ``tier`` runs once on every tier.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightlab.sandbox import leftovers
from nightlab.sandbox.choose import choose, ready
from nightlab.sandbox.selftest import Bench
from nightlab.sandbox.warm import WarmSandbox
from nightlab.sandbox_commands import judge
from nightlab.vocabulary import Tier

TIERS = [
    pytest.param(Tier.PROCESS, id="process"),
    pytest.param(Tier.BWRAP, id="bwrap", marks=pytest.mark.bwrap),
    pytest.param(Tier.DOCKER, id="docker", marks=pytest.mark.docker),
]


@pytest.fixture(autouse=True)
def _outputs_go_with_their_test() -> Iterator[None]:
    """A test may look at what a run left; nobody else does."""
    yield
    for folder in Path(tempfile.gettempdir()).glob(f"{leftovers.stem('outputs')}*"):
        shutil.rmtree(folder)


def require(tier: Tier) -> Tier:
    """Skip the test where the tier is not ready, and fail it in CI."""
    works, reason = ready(tier)
    if not works and os.environ.get("CI") == "true":
        pytest.fail(f"{tier} must be ready in CI: {reason}")
    if not works:
        pytest.skip(f"{tier}: {reason}")
    return tier


@pytest.fixture(scope="session", params=TIERS)
def tier(request: pytest.FixtureRequest) -> Tier:
    """Each tier in turn."""
    chosen: Tier = request.param
    return require(chosen)


@pytest.fixture(scope="module")
def bench(tier: Tier) -> Iterator[Bench]:
    """A warm tier with an honest program's data and weights."""
    sandbox = choose(tier).sandbox
    ready_bench = Bench(sandbox, judge)
    if tier is not Tier.PROCESS:
        rooms = [ready_bench.room(), ready_bench.room()]
        ready_bench.sandbox = WarmSandbox(sandbox, rooms, openers=2)
    yield ready_bench
    ready_bench.close()


@pytest.fixture
def docker_tier() -> Tier:
    return require(Tier.DOCKER)


@pytest.fixture
def bwrap_tier() -> Tier:
    return require(Tier.BWRAP)
