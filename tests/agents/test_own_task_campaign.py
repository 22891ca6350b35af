"""Whole campaigns on tasks of a person's own: by the catalogue, and by a scripted model."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from nightlab.agents import start
from nightlab.agents.question import Endpoint
from nightlab.agents.start import Order
from nightlab.errors import MissingError
from nightlab.evals.new_task import create
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import CampaignStatus, TrialStatus
from nightlab.sandbox import bwrap
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import Budget, Direction, Objective, Verdict

if TYPE_CHECKING:
    from tests.agents.openai_server import Asked, Say, Server
else:
    from openai_server import Asked, Say, Server

pytestmark = pytest.mark.slow


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "artifacts") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A new task on short rungs."""
    made = create("mine", tmp_path)
    text = (made / "task.toml").read_text()
    text = re.sub(r"cpu_seconds = 2", "cpu_seconds = 0.3", text)
    (made / "task.toml").write_text(re.sub(r"cpu_seconds = 6", "cpu_seconds = 0.6", text))
    return made


def order(folder: Path, trials: int, *endpoints: Endpoint) -> Order:
    objective = Objective(
        metric="val_loss", direction=Direction.LOWER, budget=Budget(trials=trials)
    )
    return Order(
        goal="lower val_loss", objective=objective, task=str(folder), seed=3, endpoints=endpoints
    )


def test_the_catalogue_runs_a_campaign_on_a_new_task_to_its_end(
    folder: Path, ledger: Ledger, tmp_path: Path
) -> None:
    sandbox = ProcessSandbox()
    try:
        supervisor = start.begin(order(folder, 26), ledger, sandbox, tmp_path)
        campaign = supervisor.lab.campaign.id
        assert supervisor.run() is CampaignStatus.FINISHED
    finally:
        sandbox.close()
    trials = [t for t in ledger.trials(campaign=campaign) if t.status is TrialStatus.FINISHED]
    assert len(trials) >= 15
    measured = [t.measurement.metrics for t in trials if t.measurement and t.measurement.metrics]
    assert len(measured) >= 12
    assert all({"val_loss", "accuracy", "params", "peak_memory_mb"} <= set(m) for m in measured)
    concluded = [e for e in ledger.experiments(campaign)[1:] if e.verdict is not None]
    assert {e.author for e in concluded} == {"catalogue"}


def rewrites(asked: Asked) -> Say:
    """A slower rate each time, in whichever format is asked for."""
    first = asked.messages[1]["content"]
    if "<<<<<<< SEARCH" not in first and "fenced in" not in first:
        return Say(text='{"lesson": "none", "retire": []}')
    program = first.split('name="program.py">\n')[1].split("\n</data-")[0]
    old = next(line for line in program.split("\n") if "speed: float" in line)
    new = f"    speed: float = {0.001 * (2 + asked.number % 9):.3f}"
    if "fenced in" in first:
        whole = program.replace(old, new)
        return Say(text=f"HYPOTHESIS: scripted\nprogram.py\n```python\n{whole}\n```\n")
    block = f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"
    return Say(text=f"HYPOTHESIS: scripted\nprogram.py\n{block}")


@pytest.mark.bwrap
def test_a_model_alone_proposes_where_the_catalogue_knows_no_part(
    folder: Path, ledger: Ledger, tmp_path: Path, in_ci: bool
) -> None:
    try:
        bwrap.probe()
    except MissingError as missing:
        if in_ci:
            raise
        pytest.skip(str(missing))
    nameless = {"Recipe": "Setup", "Norm": "Scale", "make_optimizer": "stepper"}
    nameless |= {"schedule": "pace", "learning_rate": "speed"}
    for file in ("program.py", "train.py"):
        text = (folder / file).read_text()
        for known, own in nameless.items():
            text = text.replace(known, own)
        (folder / file).write_text(text)
    sandbox = bwrap.BwrapSandbox()
    try:
        with Server(rewrites) as server:
            endpoint = Endpoint(name="scripted", base_url=server.url, key=SecretStr("sk-none"))
            wanted = order(folder, 26, endpoint)
            supervisor = start.begin(wanted, ledger, sandbox, tmp_path)
            campaign = supervisor.lab.campaign.id
            assert supervisor.run() is CampaignStatus.FINISHED
    finally:
        sandbox.close()
    experiments = [e for e in ledger.experiments(campaign)[1:] if e.verdict is not None]
    assert {e.author for e in experiments} == {"scripted"}
    assert [e for e in experiments if e.verdict is not Verdict.INVALID]
    said = " ".join(event.message for event in ledger.events(campaign))
    assert "only models propose" in said
