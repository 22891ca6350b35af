"""Lessons: worded by a model, held to the ledger's numbers, retrieved by what they speak of."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.agents import lessons, reflect
from nightlab.agents.model import Model
from nightlab.agents.question import Endpoint
from nightlab.agents.reflect import Written
from nightlab.agents.spending import Spending
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Call, Lesson
from nightlab.vocabulary import Direction, Objective, Verdict

if TYPE_CHECKING:
    from tests.agents.openai_server import Say, Server
else:
    from openai_server import Say, Server

FACTS = "position=rotary gains 0.1234 val_bpb [0.1, 0.15] over c1-0 on 4 pairs"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "artifacts") as opened:
        opened.create_campaign(
            "lower val_bpb",
            Objective(metric="val_bpb", direction=Direction.LOWER),
            task="byte_lm",
            tier="process",
            proposer="catalogue",
            seed=1,
            workers=1,
            settings={},
        )
        yield opened


def worded(
    answer: Mapping[str, object] | str, related: list[Lesson] | None = None
) -> Written | str:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    calls: list[Call] = []
    with Server(lambda asked: Say(text=text if asked else "")) as server:
        model = Model(Endpoint(name="writer", base_url=server.url), None, Spending(), first_wait=0)
        made = reflect.written(model, calls.append, FACTS, related or [])
    heeds_schemas = text.startswith("{") or len(text) < 8
    assert len(calls) == (1 if heeds_schemas else 2)
    return made


def test_a_lesson_whose_numbers_are_the_ledgers_is_kept() -> None:
    made = worded({"lesson": "Rotary positions gain 0.12 here, on 4 pairs.", "retire": []})
    assert made == Written("Rotary positions gain 0.12 here, on 4 pairs.", ())


@pytest.mark.parametrize(
    "answer",
    [
        {"lesson": "Rotary positions gain 0.5 here.", "retire": []},
        {"lesson": "Better by 12 %.", "retire": []},
        {"lesson": "", "retire": []},
        {"retire": [1]},
        "no JSON at all",
        "[1]",
    ],
)
def test_an_invented_number_or_no_lesson_is_turned_down(
    answer: Mapping[str, object] | str,
) -> None:
    assert isinstance(worded(answer), str)


@given(st.floats(0.001, 1e6), st.integers(0, 4))
def test_a_number_may_be_rounded_and_nothing_else(value: float, digits: int) -> None:
    facts = f"gain {value!r}"
    assert not reflect.unsupported(f"about {value:.{digits}f}", facts)
    other = value * 1.5 + 10 ** (1 - digits)
    assert reflect.unsupported(f"about {other:.{digits}f}", facts)


def test_only_lessons_that_were_shown_can_be_retired(ledger: Ledger) -> None:
    old = ledger.add_lesson("c1", "Rotary positions do nothing.", ["c1-0"])
    made = worded({"lesson": "Rotary helps.", "retire": [old.id, 999, "x"]}, [old])
    assert made == Written("Rotary helps.", (old.id,))
    lessons.retire(ledger, "c1", old, "replaced")
    assert lessons.active(ledger, "c1") == []
    assert ledger.lessons("c1") == [old]


def test_what_is_relevant_comes_first(ledger: Ledger) -> None:
    for text in ("Small batches win.", "position=rotary does not run here.", "Wide is slow."):
        ledger.add_lesson("c1", text, ["c1-0"])
    found = lessons.relevant(ledger, "c1", "try rotary positions", most=2)
    assert found[0].text.startswith("position=rotary")
    assert len(found) == 2
    assert lessons.relevant(ledger, "c1", '"; DROP TABLE lesson; --')


@pytest.mark.parametrize(
    ("before", "after", "false"),
    [
        (Verdict.DISCARDED, Verdict.CONFIRMED, True),
        (Verdict.DISCARDED, Verdict.DISCARDED, False),
        (Verdict.INVALID, Verdict.DISCARDED, True),
        (Verdict.FAILED, Verdict.SCREENED, True),
        (Verdict.FAILED, Verdict.FAILED, False),
        (Verdict.CONFIRMED, Verdict.REJECTED, True),
        (Verdict.CONFIRMED, Verdict.DISCARDED, False),
    ],
)
def test_a_lesson_is_false_once_the_ledger_says_the_opposite(
    ledger: Ledger, before: Verdict, after: Verdict, false: bool
) -> None:
    lease = ledger.acquire_lease("c1", "test:1", seconds=60)
    rows = [ledger.begin_experiment(lease) for _ in range(3)]
    old, new = (
        replace(row, verdict=verdict, operator="norm:rms_norm", edits=("norm=rms_norm",))
        for row, verdict in zip(rows[:2], (before, after), strict=True)
    )
    other = replace(rows[2], verdict=before, operator="head:tied", edits=("head=tied",))
    evidence = {row.id: row for row in (old, new, other)}
    told = ledger.add_lesson("c1", "In any words.", [old.id])
    kept = [ledger.add_lesson("c1", "Of another.", [other.id]), ledger.add_lesson("c1", "None.")]
    found = reflect.contradicted(new, [told, *kept], evidence)
    assert found == ([told] if false else [])
