"""Asking a foreign program for predictions, row by row, without believing anything.

A scorer asks through :class:`Asker` for the answers to named inputs whose first axis is rows. Rows
go to the *reader* in an order and in batches that only the evaluator knows; some are asked again,
late and in other company, and some of a *checker*, a fresh process that has seen nothing. A program
that remembers, or that reads its neighbours in the batch, disagrees with itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nightlab.errors import UsageError
from nightlab.evals.oracles import Array, DiedError, Oracle, Oracles, RefusedError

Arrays = Mapping[str, Array]

BATCH_ROWS = 256
CHECKED_ROWS = 64
TOLERANCE, ROUNDING = 1e-3, 1e-6
"""What rounding may explain: so much of an answer's spread over rows, and of its usual size."""
SENDABLE = {"float64": "float32", "float16": "float32", "bool": "uint8"}
SENT = frozenset({"float32", "int64", "int32", "uint8"})


@dataclass
class Asker:
    """What a scorer is given to ask with."""

    oracles: Oracles
    answers: Mapping[str, tuple[int, ...]]
    """Name of each answer to its shape for one row; all are float32."""
    rng: np.random.Generator
    asked: int = field(default=0, init=False)
    """Rows asked so far."""

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """The answers to every row, in the order of the rows.

        Raises:
            UsageError: the inputs are not arrays with a common first axis.
            RefusedError, DiedError: for the evaluator, not for the scorer.
        """
        inputs, rows = _sendable(inputs)
        order = self.rng.permutation(rows)
        found = {n: np.empty((rows, *shape), np.float32) for n, shape in self.answers.items()}
        for batch in self._batches(order):
            for name, values in self._ask(self.oracles.reader, inputs, batch).items():
                found[name][batch] = values
        again = self.rng.permutation(order[:CHECKED_ROWS])
        self._compare(
            self.oracles.reader, inputs, again, found, "the same process, asked again later,"
        )
        for batch in np.array_split(self.rng.permutation(rows)[:CHECKED_ROWS], 3):
            self._compare(self.oracles.checker, inputs, batch, found, "a fresh process")
        self.asked += rows
        return found

    def _batches(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        batches, at = [], 0
        while at < len(order):
            size = int(self.rng.integers(BATCH_ROWS // 2, BATCH_ROWS + 1))
            batches.append(order[at : at + size])
            at += size
        return batches

    def _ask(
        self, oracle: Oracle, inputs: Arrays, rows: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float32]]:
        wanted = {"inputs": list(inputs), "answers": list(self.answers)}
        answer = oracle.ask("predict", *(values[rows] for values in inputs.values()), **wanted)
        if answer is None:
            raise DiedError("it died, raised or passed its limit when asked for predictions")
        if len(answer) != len(self.answers):
            raise RefusedError(f"gave {len(answer)} answers, not {len(self.answers)}")
        checked: dict[str, NDArray[np.float32]] = {}
        for values, (name, shape) in zip(answer, self.answers.items(), strict=True):
            if values.dtype != np.float32 or values.shape != (len(rows), *shape):
                raise RefusedError(
                    f"answered {name} of shape {values.shape} and type {values.dtype} to "
                    f"{len(rows)} rows; declared is {shape} of float32 for each"
                )
            checked[name] = values.astype(np.float32)
            if not np.isfinite(checked[name]).all():
                raise RefusedError(f"answered {name} that is not finite")
        return checked

    def _compare(
        self,
        oracle: Oracle,
        inputs: Arrays,
        rows: NDArray[np.int64],
        found: Mapping[str, NDArray[np.float32]],
        who: str,
    ) -> None:
        if not len(rows):
            return
        for name, values in self._ask(oracle, inputs, rows).items():
            apart = np.abs(values - found[name][rows])
            if (apart > _explained(found[name])).any():
                raise RefusedError(
                    f"{who} gave another {name} for the same row in other company: answers may "
                    "not depend on other rows or on earlier calls"
                )


def _explained(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """What rounding may explain, for each place of an answer: measured on what varies there, so
    that an answer that is scaled down hides no more than one that is not."""
    middle = np.median(values, axis=0)
    spread = np.median(np.abs(values - middle), axis=0)
    explained: NDArray[np.float32] = TOLERANCE * spread + ROUNDING * np.median(np.abs(values), 0)
    return explained


def _sendable(inputs: Arrays) -> tuple[dict[str, Array], int]:
    """The inputs in types that can be sent, and their number of rows."""
    sent: dict[str, Array] = {}
    for name, values in inputs.items():
        array = np.asarray(values)
        if array.dtype.name in SENDABLE:
            array = array.astype(SENDABLE[array.dtype.name])
        if array.dtype.name not in SENT or array.ndim == 0:
            raise UsageError(f"input {name!r} of type {array.dtype} cannot be asked about")
        sent[name] = array
    lengths = {len(array) for array in sent.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise UsageError(f"inputs need one common number of rows, not {sorted(lengths)}")
    return sent, lengths.pop()
