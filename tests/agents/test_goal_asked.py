"""Goals read by a model over real HTTP: the grammar checks, and stands where it can read."""

import json
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nightlab.agents.goal.asked import Asked, ask, describe
from nightlab.agents.model import Model
from nightlab.agents.question import Endpoint
from nightlab.agents.spending import Spending
from nightlab.errors import UsageError
from nightlab.vocabulary import Direction, Objective

if TYPE_CHECKING:
    from tests.agents.openai_server import Say, Server
else:
    from openai_server import Say, Server

METRICS = {
    "val_bpb": Direction.LOWER,
    "params": Direction.LOWER,
    "decode_ms@4096": Direction.LOWER,
}
NOW = datetime(2026, 1, 1, 22, 0, tzinfo=UTC)
PLAN = {
    "sub_questions": ["which part limits bpb?"],
    "hypotheses": ["rotary positions generalise"],
    "parts": ["position"],
}


BYTES = {"val_bpb": Direction.LOWER, "params": Direction.LOWER, "peak_memory_mb": Direction.LOWER}
RECALL = {
    **BYTES,
    "accuracy": Direction.HIGHER,
    "kv_bytes_per_token": Direction.LOWER,
    "decode_ms@4096": Direction.LOWER,
    "train_tokens_per_s": Direction.HIGHER,
}
PARTS = ("position", "norm", "attention", "optimizer", "batch", "width", "depth", "heads")


def understood(
    sentence: str,
    answer: Mapping[str, Any] | str,
    status: int = 200,
    metrics: Mapping[str, Direction] = METRICS,
) -> Asked:
    text = answer if isinstance(answer, str) else json.dumps({**PLAN, **answer})
    with Server(lambda asked: Say(text=text, status=status if asked else 200)) as server:
        model = Model(Endpoint(name="reader", base_url=server.url), None, Spending(), first_wait=0)
        return ask(model, sentence, metrics, "val_bpb", PARTS, NOW)


def test_what_the_grammar_reads_stands_and_the_model_adds_the_plan() -> None:
    asked = understood("lower val_bpb by 5%", {"metric": "params", "target_percent": 50})
    assert asked.by == "the grammar"
    assert not asked.unsure
    assert asked.reading.objective.metric == "val_bpb"
    assert asked.reading.objective.target_percent == 5
    assert "expects: rotary positions generalise" in asked.plan
    assert any("number 50" in note for note in asked.notes)
    assert "research    asks: which part limits bpb?" in describe(asked)
    assert "tokens, price unknown" in describe(asked)
    assert len(asked.calls) == 1


UNREADABLE = "make my tiny language model write nicer code, by 5 percent at least"


def test_what_only_the_model_reads_must_be_confirmed() -> None:
    asked = understood(UNREADABLE, {"metric": "val_bpb", "target_percent": 5})
    assert asked.unsure
    assert asked.by == "reader"
    assert asked.reading.objective.target_percent == 5
    assert asked.reading.objective.direction is Direction.LOWER
    assert any("the grammar could not" in note for note in asked.notes)


def test_halving_within_a_percent_is_a_target_and_a_constraint() -> None:
    limit = {"metric": "val_bpb", "op": "<=", "value": 1.01, "relative": True}
    sentence = "I would love decoding at 4k to take half the time, bits staying within 1 %"
    answer = {"metric": "decode_ms@4096", "target_percent": 50, "constraints": [limit]}
    objective = understood(sentence, answer).reading.objective
    assert objective.target_percent == 50
    assert str(objective.constraints[0]) == "val_bpb <= 1.01 x baseline"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"metric": "val_bpb", "target_percent": 37}, "number 37"),
        ({"metric": "happiness"}, "'happiness'"),
        ({"metric": "val_bpb", "questions": ["Which code?"]}, "Which code"),
        ({"metric": "val_bpb", "impossible": "It has no code metric."}, "no code metric"),
        ("I cannot say.", "no JSON"),
        ("[1, 2]", "no JSON"),
        ('{"metric": ', "could not read it"),
    ],
)
def test_an_invented_ambiguous_or_impossible_reading_is_refused_with_its_reason(
    answer: Mapping[str, Any] | str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        understood(UNREADABLE, answer)


def test_a_model_that_fails_leaves_the_grammars_reading_and_says_so() -> None:
    asked = understood("lower val_bpb by 5%", "", status=401)
    assert asked.by == "the grammar"
    assert asked.plan == ()
    assert any("access denied" in note for note in asked.notes)


REPLIES = tomllib.loads((Path(__file__).parent / "goal_replies.toml").read_text())["reply"]


def short(objective: Objective) -> str:
    """An objective in a line, such as ``val_bpb lower by 5; params <= 1 x baseline; 600 s``."""
    by = "" if objective.target_percent is None else f" by {objective.target_percent:g}"
    to = "" if objective.target_value is None else f" to {objective.target_value:g}"
    time = [] if objective.budget.seconds is None else [f"{objective.budget.seconds:g} s"]
    rest = [*map(str, objective.constraints), *time]
    return "; ".join([f"{objective.metric} {objective.direction}{by}{to}", *rest])


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: reply["goal"][:40])
def test_of_thirty_scripted_replies_each_is_read_as_it_should_be(reply: Mapping[str, Any]) -> None:
    metrics = BYTES if reply["task"] == "bytes" else RECALL
    if "refused" in reply:
        with pytest.raises(UsageError, match=reply["refused"]):
            understood(reply["goal"], reply["says"], metrics=metrics)
        return
    asked = understood(reply["goal"], reply["says"], metrics=metrics)
    assert asked.unsure == (reply["by"] == "model")
    assert short(asked.reading.objective) == reply["reads"]
    for note in reply.get("notes", []):
        assert any(note in said for said in asked.notes), asked.notes
    assert len(asked.plan) == reply.get("plan", 0)
    assert "\x1b" not in describe(asked)


def test_there_are_thirty_scripted_replies_of_every_kind() -> None:
    assert len(REPLIES) == 30
    assert sum("refused" in reply for reply in REPLIES) >= 12
    assert sum(reply.get("by") == "grammar" for reply in REPLIES) >= 7
