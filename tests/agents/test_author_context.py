"""What a model is shown, and which written changes count as tried, on a real ledger."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nightlab.agents import catalogue, start
from nightlab.agents.author.context import Situation
from nightlab.agents.author.near import Neighbours
from nightlab.agents.author.prompting import Quoting
from nightlab.agents.decide import menu
from nightlab.agents.lab import Lab
from nightlab.agents.model import Model
from nightlab.agents.plateau import PATIENCE
from nightlab.agents.policy.interface import Choice, Decision, Head
from nightlab.agents.question import Endpoint, Trouble, UnansweredError
from nightlab.agents.spending import Spending
from nightlab.agents.start import Order
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Call, Experiment
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import Budget, Direction, Objective, Program, Verdict

if TYPE_CHECKING:
    from tests.agents.openai_server import Say, Server
else:
    from openai_server import Say, Server


@pytest.fixture
def lab(tiny_task: Path, tmp_path: Path) -> Iterator[Lab]:
    """A campaign whose baseline is stored and that has run nothing."""
    budget = Budget(trials=40, tokens=90_000)
    order = Order(
        goal="lower val_bpb",
        objective=Objective(metric="val_bpb", direction=Direction.LOWER, budget=budget),
        task=str(tiny_task),
        seed=1,
    )
    sandbox = ProcessSandbox()
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "artifacts") as ledger:
        made = start.begin(order, ledger, sandbox, tmp_path).lab
        conclude(made, made.bench.task.baseline, Verdict.CONFIRMED)
        yield made
    sandbox.close()


def conclude(lab: Lab, program: Program, verdict: Verdict, part: str = "") -> Experiment:
    """An experiment with this program and verdict, that nobody trained."""
    ledger, name = lab.ledger, lab.ledger.begin_experiment(lab.lease).id
    stored = ledger.put_program(program, tree_hash=catalogue.tree_hash(program), origin="test")
    first = name == lab.baseline
    ledger.set_proposal(
        name,
        program=stored.id,
        parent=None if first else lab.baseline,
        author="baseline" if first else "scripted",
        hypothesis="a test",
        part=part,
    )
    ledger.conclude_experiment(lab.lease, name, verdict, "a test", incumbent=first)
    return ledger.experiment(name)


def changed(lab: Lab, text: str) -> Program:
    base = lab.program_of(lab.baseline)
    return Program({name: content + text for name, content in base.files.items()})


def decision(lab: Lab) -> Decision:
    picks = {Head.PARENT: lab.baseline, Head.AUTHOR: "scripted", Head.BOLDNESS: "1"}
    choices = tuple(
        Choice(head=head, options=(option,), mask=(True,), mu=(1.0,), index=0)
        for head, option in picks.items()
    )
    return Decision(
        id="c1-1",
        campaign="c1",
        choices=choices,
        edits=(("norm", "free"),),
        policy="scripted",
        version="1",
        catalogue=menu(("scripted",)).version,
        proposer="",
        seed="",
        time=1,
    )


def prompt(lab: Lab) -> str:
    return Situation(lab, decision(lab), Quoting("data-1")).prompt("Answer.")


def test_a_proposer_is_told_the_budget_that_is_left(lab: Lab) -> None:
    assert "budget left: 40 trials, 90000 tokens" in prompt(lab)


def test_a_plateau_changes_the_task_and_is_logged_once(lab: Lab) -> None:
    assert "Make one small" in prompt(lab)
    for n in range(PATIENCE):
        conclude(lab, changed(lab, f"\nX{n} = 1\n"), Verdict.DISCARDED, part="norm")
    shown = prompt(lab) + prompt(lab)
    assert "change the mechanism" in shown
    assert "Make one small" not in shown
    assert f"no gain in {PATIENCE} measured experiments since c1-0; tried: norm" in shown
    told = [e.message for e in lab.ledger.events("c1") if e.kind == "plateau"]
    assert len(told) == 1


def neighbours(lab: Lab, server: Server) -> tuple[Neighbours, Model]:
    endpoint = Endpoint(name="embedder", base_url=server.url)
    model = Model(endpoint, None, Spending(), first_wait=0.01)
    return Neighbours(lab, model), model


def test_a_written_change_that_differs_in_a_number_only_is_nearly_the_same(lab: Lab) -> None:
    conclude(lab, changed(lab, "\nclass Gate:\n    width = 3\n"), Verdict.DISCARDED)
    lab.ledger.begin_experiment(lab.lease)
    with Server(lambda asked: Say(text=asked.path)) as server:
        near, model = neighbours(lab, server)
        same = near.refuse("c1-2", changed(lab, "\nclass Gate:\n    width = 4\n"))
        other = near.refuse("c1-2", changed(lab, "\ndef rotate(x):\n    return -x.flip(-1)\n"))
        assert model.spending.tokens == server.tokens_in > 0
    assert same is not None
    assert "nearly the same change as c1-1 (similarity 1.000)" in same
    assert other is None
    calls = lab.ledger.calls("c1")
    assert sum(call.tokens_in for call in calls) == model.spending.tokens
    assert all("embedding of" in call.prompt for call in calls)


def test_an_embedder_that_fails_refuses_nothing_and_the_log_says_so_once(lab: Lab) -> None:
    lab.ledger.begin_experiment(lab.lease)
    with Server(lambda asked: Say(text=asked.path)) as server:
        near, model = neighbours(lab, server)
        for _ in range(2):
            assert near.refuse("c1-1", changed(lab, "\nunspeakable = 1\n")) is None
        calls: list[Call] = []
        with pytest.raises(UnansweredError) as caught:
            model.embed(["unspeakable"], calls.append)
        assert caught.value.trouble is Trouble.SERVER
        assert calls[0].error
    told = [e.message for e in lab.ledger.events("c1") if "no longer compared" in e.message]
    assert len(told) == 1
