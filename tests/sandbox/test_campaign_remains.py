"""A campaign that has ended leaves nothing of itself behind, even while its tier stays open."""

import contextlib
from dataclasses import replace
from pathlib import Path

from nightlab.agents import start
from nightlab.agents.start import Order
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import CampaignStatus
from nightlab.sandbox import remains
from nightlab.sandbox.choose import choose
from nightlab.vocabulary import Budget, Direction, Objective, Tier


def test_a_campaign_that_ended_leaves_no_cell_behind(
    tier: Tier, tiny_task: Path, tmp_path: Path
) -> None:
    objective = Objective(metric="val_bpb", direction=Direction.LOWER, budget=Budget(trials=20))
    order = Order(goal="lower val_bpb", objective=objective, task=str(tiny_task), seed=1, workers=1)
    with (
        contextlib.closing(choose(tier).sandbox) as sandbox,
        Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "artifacts") as ledger,
    ):
        before = remains.of_this_process(tier)
        supervisor = start.begin(order, ledger, sandbox, tmp_path)
        supervisor.lab.plan = replace(supervisor.lab.plan, noise_trials=3)
        supervisor.most_experiments = 0
        assert supervisor.run() is CampaignStatus.FINISHED
        assert ledger.trials(campaign=supervisor.lab.campaign.id)
    assert remains.of_this_process(tier) <= before
