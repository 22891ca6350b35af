"""What a person's plain words close and open on the menu."""

import pytest

from nightlab.agents.decide import menu
from nightlab.agents.directives import FORGET, restriction, understood
from nightlab.agents.policy.interface import Head

MENU = menu(("catalogue", "scripted"))
EVERYTHING = frozenset(part.name for part in MENU.parts)


def only(*notes: str) -> dict[Head, frozenset[str]]:
    return dict(restriction([understood(note, MENU) for note in notes], MENU))


def test_a_part_that_is_left_alone_is_closed_and_a_named_one_is_all_there_is() -> None:
    found = only("work on the norm, leave the optimizer alone")
    assert found[Head.PART] == {"norm"}
    assert only("leave the optimizer alone")[Head.PART] == EVERYTHING - {"optimizer"}


def test_a_variant_opens_its_own_part() -> None:
    found = only("try rms_norm")
    assert found[Head.PART] == {"norm"}
    assert {"rms_norm", "free"} <= found[Head.VARIANT]


def test_a_dial_is_named_in_two_words() -> None:
    assert only("do not touch the learning rate")[Head.PART] == EVERYTHING - {"learning_rate"}


def test_an_author_can_be_chosen() -> None:
    assert only("use only scripted from now on")[Head.AUTHOR] == {"scripted"}


def test_words_that_name_nothing_restrict_nothing() -> None:
    assert only("think harder about the data") == {}
    assert "names nothing" in str(understood("think harder", MENU))


def test_directives_add_up() -> None:
    found = only("work on the norm", "and the optimizer", "not the norm")
    assert found[Head.PART] == {"optimizer"}


@pytest.mark.parametrize("text", ["forget my directives", "drop that wish, ignore everything"])
def test_directives_can_be_dropped(text: str) -> None:
    assert FORGET.search(text)
