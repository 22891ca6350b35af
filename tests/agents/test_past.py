"""Earlier campaigns teach later ones, weighed, and always the same way; and it can be told why."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner

from nightlab.agents import carry, past, reasons
from nightlab.agents.policy.actor_critic import ActorCritic, Learning
from nightlab.agents.policy.batch import replay_weight
from nightlab.agents.policy.interface import Head, Outcome, Record
from nightlab.agents.policy.stored import bandit, load, warm
from nightlab.agents.relearn import Order, document, relearn
from nightlab.cli import app
from nightlab.errors import MissingError, UsageError
from nightlab.memory.example import Clock
from nightlab.memory.ledger import Ledger
from nightlab.memory.report.documents import jsonable
from nightlab.vocabulary import Beginning

if TYPE_CHECKING:
    from tests.agents.played import MENU, Player
else:
    from played import MENU, Player


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def ledger(home: Path) -> Iterator[Ledger]:
    """Two campaigns by the bandit on one task, one on another, one by the shipped weights."""
    clock = Clock()
    with Ledger.open(f"sqlite:///{home}/ledger.db", home / "artifacts", clock=clock) as opened:
        player = Player(opened, clock)
        player.play(bandit(), 24, seed=1)
        player.play(bandit(), 24, seed=2, task="another")
        player.play(bandit(), 24, seed=3)
        policy = warm()
        name = player.play(policy, 18, seed=4, began="warm")
        carry.store(policy, home, name)
        yield opened


def silent(done: int, losses: object) -> None:
    del done, losses


def test_a_campaign_takes_along_those_that_had_ended_before_it_was_created(ledger: Ledger) -> None:
    third = ledger.campaign("c3")
    assert [c.id for c in past.before(ledger, third)] == ["c1", "c2"]
    assert past.before(ledger, ledger.campaign("c1")) == []


def test_records_of_old_campaigns_and_other_tasks_weigh_less(ledger: Ledger) -> None:
    now = ledger.campaign("c4")
    found = list(past.sources(ledger, past.before(ledger, now), now, MENU.version))
    assert [s.campaign.id for s in found] == ["c3", "c2", "c1"]
    near, other, old = (replay_weight(s.records[0]) for s in found)
    assert near == 1.0
    assert other < old < near
    stale = past.source(ledger, ledger.campaign("c3"), now, "another catalogue", 0.0)
    assert replay_weight(stale.records[0]) < near


def test_a_record_has_the_reward_that_the_campaign_itself_ranked_by(ledger: Ledger) -> None:
    found = past.source(ledger, ledger.campaign("c1"), ledger.campaign("c1"), MENU.version, 0.0)
    assert len(found.records) == 24
    assert found.skipped == 0
    for record in found.records:
        assert record.outcome is Outcome.VALID
        trial = ledger.trials(experiment=record.decision.id)[0]
        base = ledger.trials(experiment="c1-0")[0]
        gain = (base.value("val_bpb") or 0) - (trial.value("val_bpb") or 0)
        assert record.reward is not None
        assert gain - 0.2 < record.reward < gain


def test_the_latest_records_are_kept_where_there_are_too_many(ledger: Ledger) -> None:
    now = ledger.campaign("c4")
    found = list(past.sources(ledger, past.before(ledger, now), now, MENU.version, most=30))
    assert [(s.campaign.id, len(s.records)) for s in found] == [("c3", 24), ("c2", 6)]
    assert found[1].records[-1].decision.id == "c2-24"


def test_the_bandit_takes_nothing_along_and_a_learner_does(ledger: Ledger) -> None:
    now = ledger.campaign("c4")
    assert past.taken_along(ledger, now, bandit(), MENU.version) == []
    taken = past.taken_along(ledger, now, warm(), MENU.version)
    assert [r.decision.campaign for r in taken] == ["c1"] * 24 + ["c2"] * 24 + ["c3"] * 24


def test_a_resume_in_the_middle_of_learning_across_campaigns_is_exact_to_the_bit(
    ledger: Ledger, tmp_path: Path
) -> None:
    now = ledger.campaign("c4")
    learning = Learning(every=3)

    def records() -> list[Record]:
        own = past.source(ledger, now, now, MENU.version, 0.0).records
        return [*past.taken_along(ledger, now, warm(), MENU.version), *own]

    def learnt(policy: ActorCritic, first: int, last: int) -> list[str]:
        known = records()
        return [
            policy.learn(known, np.random.default_rng([1, number])).reason
            for number in range(first, last)
        ]

    straight = ActorCritic(warm().weights, version="warm", learning=learning)
    said = learnt(straight, 0, 6)
    broken = ActorCritic(warm().weights, version="warm", learning=learning)
    learnt(broken, 0, 2)
    carry.store(broken, tmp_path, "c4")
    again = load(tmp_path / "policies" / "c4")
    assert isinstance(again, ActorCritic)
    again.learning = learning
    assert learnt(again, 2, 6) == said[2:]
    assert again.version == straight.version
    for name, weight in straight.candidate.items():
        assert np.array_equal(again.candidate[name], weight)


def test_what_the_bandit_logs_beside_its_choice_does_not_change_it(ledger: Ledger) -> None:
    del ledger
    from nightlab.agents.bench_search.campaign import Campaign
    from nightlab.agents.bench_search.objective import Objective
    from nightlab.agents.bench_search.simulated import simulated
    from nightlab.agents.policy.bandit import PuctThompson

    edits = []
    for policy in (bandit(), PuctThompson()):
        objective = Objective(simulated(3), 30.0, np.random.default_rng(0))
        campaign = Campaign("c", objective, np.random.default_rng(1))
        edits.append([campaign.step(policy).decision.edits for _ in range(15)])
    assert edits[0] == edits[1]


def test_families_below_one_baseline_are_the_units_of_the_bootstrap(ledger: Ledger) -> None:
    now = ledger.campaign("c1")
    found = past.source(ledger, now, now, MENU.version, 0.0)
    assert len({record.decision.lineage for record in found.records}) > 2


def test_learning_again_says_what_was_refused_and_why(ledger: Ledger, home: Path) -> None:
    heard: list[int] = []
    order = Order(beginning=Beginning.COLD, rounds=6)
    found = relearn(ledger, home, order, lambda done, _: heard.append(done), store=False)
    assert heard == [1, 2, 3, 4, 5, 6]
    assert found.update.judged
    assert found.update.records == 90
    assert {"value", "value_low", "current", "difference_low"} <= set(found.update.numbers)
    assert found.update.ess > 1
    told = dict(found.facts())
    assert told["candidate"].startswith("adopted" if found.update.adopted else "refused")
    jsonable(document(found))


def test_learning_again_from_the_same_ledger_gives_the_same(ledger: Ledger, home: Path) -> None:
    order = Order(campaigns=("c1", "c3"), beginning=Beginning.COLD, rounds=4, seed=5)
    one, two = (relearn(ledger, home, order, silent, store=False) for _ in range(2))
    assert {**one.update.numbers, "seconds": 0} == {**two.update.numbers, "seconds": 0}
    assert [source.campaign for source in one.sources] == ["c3", "c1"]


def test_a_campaign_that_is_not_there_teaches_nothing(ledger: Ledger, home: Path) -> None:
    with pytest.raises(UsageError, match="c77"):
        relearn(ledger, home, Order(campaigns=("c77",)), silent)


def test_a_decision_by_weights_is_explained_by_those_weights(ledger: Ledger, home: Path) -> None:
    why = reasons.why(ledger, home, "c4-9")
    assert why.attributed
    assert any(reason.attribution for reason in why.reasons)
    parents = [e.parent for e in ledger.experiments("c4") if 0 < e.number < 9]
    assert why.visits == parents.count(why.decision.parent)
    variants = [reason for reason in why.reasons if reason.head == Head.VARIANT]
    assert all("=" in reason.chosen for reason in variants)


def test_a_campaign_shows_what_its_weights_prefer_and_are_worth(ledger: Ledger, home: Path) -> None:
    learned = reasons.standing(ledger, home, "c4")
    assert learned.learned
    assert learned.worth is not None
    assert math.isfinite(learned.worth.difference)
    assert learned.preferences[0].shift != 0
    plain = reasons.standing(ledger, home, "c1")
    assert not plain.learned
    assert plain.worth is None
    assert {p.head for p in plain.preferences} >= {"part", "variant"}
    for found in (learned, plain):
        jsonable(reasons.standing_document(found))
        assert found.version in reasons.markdown(found)


def test_a_baseline_has_no_decision_to_explain(ledger: Ledger, home: Path) -> None:
    with pytest.raises(MissingError, match="baseline"):
        reasons.why(ledger, home, "c1-0")


def command(home: Path, *arguments: str) -> str:
    """Stdout of a nightlab command on this home."""
    done = CliRunner().invoke(app, arguments, env={"NIGHTLAB_HOME": str(home)})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_commands_print_one_document(ledger: Ledger, home: Path) -> None:
    del ledger
    learned = json.loads(
        command(home, "learn", "c1", "c3", "--rounds", "3", "--no-store", "--json")
    )
    assert [source["campaign"] for source in learned["sources"]] == ["c3", "c1"]
    campaign = json.loads(command(home, "show", "c4", "--policy", "--json"))
    assert campaign["version"] == warm().version
    experiment = json.loads(command(home, "show", "c4-5", "--policy", "--json"))
    assert {"prior", "value", "attribution"} <= set(experiment["heads"][0])
    report = json.loads(command(home, "report", "c4", "--to", str(home / "out"), "--json"))
    assert report["policy"]["learned"] is True
    assert "## The policy" in (home / "out" / "c4" / "report.md").read_text()


def test_screens_say_the_same_to_people(ledger: Ledger, home: Path) -> None:
    del ledger
    assert warm().version in command(home, "show", "c4", "--policy")
    assert "because of" in command(home, "show", "c4-5", "--policy")
    assert "effective sample size" in command(home, "learn", "--rounds", "2", "--no-store")
