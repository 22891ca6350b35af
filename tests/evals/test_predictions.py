"""Asking for predictions: honest programs pass, and what an answer may not depend on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from nightlab.errors import UsageError
from nightlab.evals.oracles import Array, DiedError, Oracles, RefusedError
from nightlab.evals.predictions import Arrays, Asker

ROWS = np.random.default_rng(1).normal(size=(900, 5)).astype(np.float32)
WEIGHTS = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)


Answers = dict[str, NDArray[np.float32]]


def honest(inputs: Arrays) -> Answers:
    x = inputs["x"].astype(np.float32)
    return {"logits": x @ WEIGHTS}


def neighbours(inputs: Arrays) -> Answers:
    x = inputs["x"].astype(np.float32)
    return {"logits": (x - x.mean(0)) @ WEIGHTS}


def faintly(inputs: Arrays) -> Answers:
    return {"logits": neighbours(inputs)["logits"] * np.float32(1e-5)}


class Remembers:
    """Answers better to what it has seen before."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, inputs: Arrays) -> Answers:
        self.calls += 1
        return {"logits": honest(inputs)["logits"] * np.float32(1 + self.calls / 10)}


@dataclass
class Process:
    """A process that predicts by a function."""

    predict: Callable[[Arrays], Arrays | None]

    @property
    def facts(self) -> Mapping[str, object]:
        return {}

    def ask(self, what: str, *arrays: Array, **options: object) -> Sequence[Array] | None:
        assert what == "predict"
        names = options["inputs"]
        assert isinstance(names, list)
        answer = self.predict(dict(zip(names, arrays, strict=True)))
        return None if answer is None else list(answer.values())


def asker(
    reader: Callable[[Arrays], Arrays | None], checker: Callable[[Arrays], Arrays] | None = None
) -> Asker:
    oracles = Oracles(reader=Process(reader), checker=Process(checker or reader))
    return Asker(oracles, {"logits": (3,)}, np.random.default_rng(3))


def test_answers_come_back_in_the_order_of_the_rows() -> None:
    assert np.allclose(asker(honest)({"x": ROWS})["logits"], ROWS @ WEIGHTS, atol=1e-5)


@pytest.mark.parametrize("cheat", [neighbours, faintly, Remembers()])
def test_an_answer_that_depends_on_other_rows_or_earlier_calls_is_refused(
    cheat: Callable[[Arrays], Arrays],
) -> None:
    with pytest.raises(RefusedError, match="other company"):
        asker(cheat)({"x": ROWS})


def test_a_fresh_process_that_answers_otherwise_is_refused() -> None:
    def other(inputs: Arrays) -> Answers:
        return {"logits": honest(inputs)["logits"] + np.float32(0.1)}

    with pytest.raises(RefusedError, match="a fresh process"):
        asker(honest, other)({"x": ROWS})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.full((1, 3), np.nan, np.float32), "not finite"),
        (np.zeros((1, 4), np.float32), "shape"),
        (np.zeros((1, 3), np.int64), "int64"),
    ],
)
def test_an_answer_of_another_form_is_refused(values: Array, says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        asker(lambda _: {"logits": values})({"x": ROWS[:1]})


def test_an_answer_too_many_is_refused() -> None:
    with pytest.raises(RefusedError, match="2 answers"):
        asker(lambda i: {**honest(i), "labels": ROWS})({"x": ROWS})


def test_a_dead_process_is_no_cheat() -> None:
    with pytest.raises(DiedError):
        asker(lambda _: None)({"x": ROWS})


def test_doubles_and_booleans_are_sent_as_what_can_be_sent() -> None:
    seen: list[str] = []

    def listens(inputs: Arrays) -> Answers:
        seen.extend(values.dtype.name for values in inputs.values())
        return honest(inputs)

    asker(listens)({"x": ROWS.astype(np.float64), "on": np.ones(900, bool)})
    assert set(seen) == {"float32", "uint8"}


@pytest.mark.parametrize(
    "inputs", [{"x": ROWS, "y": ROWS[:3]}, {"x": np.array(["a"])}, {}, {"x": ROWS[:0]}]
)
def test_inputs_without_common_rows_are_the_scorers_mistake(inputs: Arrays) -> None:
    with pytest.raises(UsageError):
        asker(honest)(inputs)
