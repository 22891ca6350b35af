"""A campaign with a real, very small language model: opt in by serving one.

python tests/agents/smollm2.py /tmp/smollm2
transformers serve /tmp/smollm2 --host 127.0.0.1 --port 8123 --device cpu &
NIGHTLAB_TEST_MODEL=/tmp/smollm2 NIGHTLAB_TEST_URL=http://127.0.0.1:8123/v1 \
    pytest -m local_model tests/agents/test_local_model.py
"""

import os
from pathlib import Path

import pytest

from nightlab.agents import start
from nightlab.agents.author import account
from nightlab.agents.question import Endpoint
from nightlab.agents.start import Order
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import CampaignStatus
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import Budget, Direction, Objective

pytestmark = [pytest.mark.local_model, pytest.mark.slow]
MODEL, URL = os.environ.get("NIGHTLAB_TEST_MODEL"), os.environ.get("NIGHTLAB_TEST_URL")


@pytest.mark.skipif(
    not (MODEL and URL),
    reason="no local model is served: see the head of tests/agents/test_local_model.py",
)
def test_even_a_model_of_135_million_weights_chooses_valid_edits(
    tiny_task: Path, tmp_path: Path
) -> None:
    objective = Objective(
        metric="val_bpb", direction=Direction.LOWER, budget=Budget(trials=30, tokens=200_000)
    )
    order = Order(
        goal="lower val_bpb",
        objective=objective,
        task=str(tiny_task),
        workers=1,
        seed=5,
        proposer="llm",
        endpoints=(Endpoint(name=MODEL or "", base_url=URL),),
    )
    sandbox = ProcessSandbox()
    try:
        with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "artifacts") as ledger:
            supervisor = start.begin(order, ledger, sandbox, tmp_path)
            assert supervisor.run() is CampaignStatus.FINISHED
            (found,) = account.accounts(ledger, supervisor.lab.campaign.id)
            told = account.describe([found])
    finally:
        sandbox.close()
    assert found.proposals >= 8, told
    assert found.unanswered == 0, told
    assert found.valid >= 0.9 * found.proposals, told
    assert f"{found.valid} (" in told
