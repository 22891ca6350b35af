"""What a person's plain words close and open on the menu."""

import shutil
from pathlib import Path

import pytest

from nightlab.agents.decide import menu
from nightlab.agents.directives import FORGET, restriction, understood
from nightlab.agents.policy.interface import Head
from nightlab.errors import UsageError
from nightlab.evals.task import SHIPPED, load

MENU = menu(("catalogue", "scripted"))
EVERYTHING = frozenset(part.name for part in MENU.parts)


def only(*notes: str) -> dict[Head, frozenset[str]]:
    return dict(restriction([understood(note, MENU) for note in notes], MENU))


def test_a_part_that_is_left_alone_is_closed_and_a_named_one_is_all_there_is() -> None:
    found = only("work on the norm, leave the optimizer alone")
    assert found[Head.PART] == {"norm"}
    assert only("leave the optimizer alone")[Head.PART] == EVERYTHING - {"optimizer"}


def test_the_parts_that_a_task_focuses_on_are_understood() -> None:
    task = load("recall")
    found = only(f"try {', '.join(task.focus['kv_bytes_per_token'])}")
    assert found[Head.PART] == {"eviction", "keep", "width", "depth", "attention"}
    assert {"cached_one", "suffix"} <= found[Head.VARIANT]
    assert "differential" not in found[Head.VARIANT]


def test_a_part_that_is_named_stays_whole_beside_a_variant_of_another() -> None:
    found = only("try rms_norm and the eviction")
    assert found[Head.PART] == {"norm", "eviction"}
    evictions = next(part.variants for part in MENU.parts if part.name == "eviction")
    assert found[Head.VARIANT] == {"rms_norm", "free", *evictions}


def test_a_focus_on_what_is_not_measured_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    shutil.copytree(SHIPPED / "recall", folder)
    toml = folder / "task.toml"
    toml.write_text(toml.read_text() + "\n[focus.speed]\n")
    with pytest.raises(UsageError, match="speed"):
        load(str(folder))


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
