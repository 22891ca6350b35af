"""The trusted code of ``recall``: problems from a secret of this machine, and the answers counted.

A program with the decode contract is scored on its decode path: the host sends a context, then the
question block token by token, so nothing can be known of a question when rows are evicted. A
program without it is scored on whole rows, and a fresh process must answer the same for the same
beginning with another ending. Axes: N rows, B batch, T tokens, Q question tokens, V vocabulary.
"""

import hashlib
import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightlab.evals import recall_data
from nightlab.evals.oracles import (
    DiedError,
    Floats,
    Oracle,
    Oracles,
    RefusedError,
    Tokens,
    Work,
    log_softmax,
    measured,
    one,
)
from nightlab.evals.recall_data import SYMBOLS, VOCABULARY, Rows, Shape
from nightlab.evals.task import Source, Splits, Task
from nightlab.vocabulary import Measurement

FORMAT = 1
"""Part of the folder's name; raise it when the way rows are made changes."""
CHECKED_ROWS = 2
"""Rows of each context that a fresh process answers again."""
TOLERANCE = 5e-3
"""Largest difference in log-probability (nats) that rounding may explain between two processes, or
between the decode path and whole rows."""
SAME_TOKENS = 0.9
"""Share of places where two processes of a program that approximates must say the same."""
BATCH_TOKENS = 1 << 15


@dataclass(frozen=True)
class Problems:
    """Scored rows of one context length."""

    context: int
    tokens: Rows
    """(N, context + Q)."""
    answers: Rows
    """The same shape: 1 where a token is an answer."""

    @property
    def metric(self) -> str:
        """What the share of right answers is called."""
        return f"accuracy@{self.context}"


@dataclass(frozen=True)
class Recall:
    """The task's trusted code."""

    task: Task

    @property
    def sources(self) -> tuple[Source, ...]:
        """Rows of several lengths, whose answers alone are trained on."""
        return tuple(
            Source(tokens=f"{row}.bin", mask=f"{row}.mask", row=row)
            for row in self.task.data["train_rows"]
        )

    @property
    def shortest(self) -> int:
        """A program is asked for more than the context that it declares."""
        return int(min(self.task.data["contexts"]))

    def prepare(self, home: Path, digest: str | None = None) -> Splits:
        """Generate the splits from this machine's secret unless they are there already."""
        secret = _secret(home / "data" / self.task.name)
        text = json.dumps([FORMAT, dict(self.task.data)], sort_keys=True)
        key = hashlib.sha256(secret + text.encode()).hexdigest()[:16]
        folder = home / "data" / self.task.name / key
        if not folder.exists():
            self._write(secret, folder)
        return Splits(
            train=folder / "train",
            search=folder / "search.npz",
            holdout=folder / "holdout.npz",
            digest=key,
            origin="rows generated from this machine's secret",
        )

    def score(self, split: Path, oracles: Oracles, rng: np.random.Generator) -> Measurement:
        """Accuracy at each context and its mean; of the contexts that are wanted, if some are."""

        def work(done: Work) -> None:
            oracles.context(self.task.max_context)
            there = read(split)
            asked = [each for each in there if each.metric in oracles.wanted]
            if not asked or "accuracy" in oracles.wanted:
                asked = there
            scores = [_accuracy(each, oracles, rng) for each in asked]
            if all(score is None for score in scores):
                raise DiedError("the program answers at no context length")
            for problems, score in zip(asked, scores, strict=True):
                done.metrics[problems.metric] = score or 0.0
            if asked == there:
                done.metrics["accuracy"] = sum(score or 0.0 for score in scores) / len(scores)

        return measured(work)

    def sample(self, split: Path, rows: int, context: int, rng: np.random.Generator) -> Tokens:
        """Rows such as a program of this context trains on, which only this machine can know."""
        lengths = sorted(self.task.data["train_rows"])
        length = [lengths[0], *(each for each in lengths if each <= context)][-1]
        secret = hashlib.sha256(read(split)[0].tokens.tobytes()).digest()
        own = np.random.default_rng([int.from_bytes(secret), int(rng.integers(1 << 62))])
        tokens, _ = recall_data.rows(recall_data.shape_of(length), rows, own)
        chosen: Tokens = tokens[:, :-1]
        return chosen

    def passages(self, split: Path, rows: int, length: int, rng: np.random.Generator) -> Tokens:
        """Beginnings of scored rows of the shortest context that is as long, in random order."""
        found = read(split)
        fitting = [each.tokens for each in found if each.tokens.shape[1] >= length]
        tokens = fitting[0] if fitting else found[-1].tokens
        order = np.concatenate(
            [rng.permutation(len(tokens)) for _ in range(-(-rows // len(tokens)))]
        )
        chosen: Tokens = tokens[order[:rows], :length]
        return chosen

    def _write(self, secret: bytes, folder: Path) -> None:
        """Write beside the final place and rename, so that a crash leaves nothing half done."""
        data: Mapping[str, Sequence[int]] = self.task.data
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
        train = draft / "train"
        train.mkdir()
        for row in data["train_rows"]:
            count = max(1, int(self.task.data["train_tokens"]) // row)
            shape = recall_data.shape_of(row)
            tokens, answers = recall_data.rows(shape, count, _rng(secret, f"train {row}"))
            tokens.tofile(train / f"{row}.bin")
            answers.tofile(train / f"{row}.mask")
        for split, times in (("search", 1), ("holdout", 2)):
            arrays: dict[str, Rows] = {}
            for context, count in zip(data["contexts"], data["rows"], strict=True):
                shape = Shape(context, int(self.task.data["chains"]))
                made = recall_data.rows(shape, times * count, _rng(secret, f"{split} {context}"))
                arrays[f"tokens {context}"], arrays[f"answers {context}"] = made
            np.savez(draft / f"{split}.npz", **arrays)  # type: ignore[arg-type]
        train.chmod(0o755)
        try:
            os.rename(draft, folder)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            if not folder.exists():
                raise


def read(split: Path) -> list[Problems]:
    """The problems of a split, shortest context first."""
    with np.load(split, allow_pickle=False) as file:
        contexts = sorted(int(name.split()[1]) for name in file.files if name.startswith("tokens"))
        return [Problems(c, file[f"tokens {c}"], file[f"answers {c}"]) for c in contexts]


def _secret(folder: Path) -> bytes:
    """32 bytes that only this machine's person can read, drawn once."""
    file = folder / "secret"
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        descriptor, draft = tempfile.mkstemp(dir=folder)  # readable by its owner alone
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(32))
        try:
            os.link(draft, file)  # whoever comes second keeps the first one's
        except FileExistsError:
            pass
        finally:
            os.unlink(draft)
    return file.read_bytes()


def _rng(secret: bytes, use: str) -> np.random.Generator:
    """A generator that tells nothing of those of other uses."""
    digest = hashlib.sha256(secret + use.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest))


def _accuracy(problems: Problems, oracles: Oracles, rng: np.random.Generator) -> float | None:
    """Share of answers whose most likely token is right; None if it cannot read such a context.

    Raises:
        RefusedError: a probe failed.
    """
    order = rng.permutation(len(problems.tokens))
    size = max(1, BATCH_TOKENS // problems.tokens.shape[1])
    ask = _decoded if oracles.reader.facts.get("decodes") is True else _whole
    right, asked = 0, 0
    kept: dict[int, Floats] = {}
    for rows in np.array_split(order, math.ceil(len(order) / size)):
        try:
            logp_BQV = ask(oracles.reader, problems.tokens[rows], problems.context)
        except DiedError:
            return None
        wanted_BQ = problems.tokens[rows, problems.context + 1 :]
        counts_BQ = problems.answers[rows, problems.context + 1 :] == 1
        right += int((logp_BQV.argmax(axis=2) == wanted_BQ)[counts_BQ].sum())
        asked += int(counts_BQ.sum())
        kept |= {int(row): logp_BQV[i] for i, row in enumerate(rows)}
    _check(problems, oracles, kept, rng)
    return right / asked


def _whole(oracle: Oracle, rows_BT: Rows, context: int) -> Floats:
    """Log-probabilities (B, Q - 1, V) that follow each question token, from whole rows."""
    inputs_BT = rows_BT[:, :-1]
    answers = oracle.ask("logits", inputs_BT, start=context)
    shape = (len(rows_BT), inputs_BT.shape[1] - context, VOCABULARY)
    return log_softmax(one(answers, shape))


def _decoded(oracle: Oracle, rows_BT: Rows, context: int) -> Floats:
    """The same from the decode path: a context, then one question token at a time."""
    shape = (len(rows_BT), VOCABULARY)
    one(oracle.ask("prefill", rows_BT[:, :context]), shape)
    steps = [
        log_softmax(one(oracle.ask("step", rows_BT[:, at]), shape))
        for at in range(context, rows_BT.shape[1] - 1)
    ]
    stacked: Floats = np.stack(steps, axis=1)
    return stacked


def _check(
    problems: Problems, oracles: Oracles, kept: Mapping[int, Floats], rng: np.random.Generator
) -> None:
    """A fresh process answers the same for some rows, in other company and with endings in which
    every symbol is another one, from a random answer on: who looks ahead to it is seen."""
    rows = rng.permutation(list(kept))[:CHECKED_ROWS]
    tokens = problems.tokens[rows].copy()
    decodes = oracles.reader.facts.get("decodes") is True
    if oracles.checker.facts.get("decodes") is not decodes:
        raise RefusedError("two processes disagree on whether the program decodes")
    start = problems.context + 1
    answers = problems.answers[rows, start + 1 : -1] == 1
    cuts = [start + 1 + int(rng.choice(np.flatnonzero(each))) for each in answers]
    for i, cut in enumerate(cuts):
        ending = tokens[i, cut:]
        symbols = ending < SYMBOLS
        ending[symbols] = (ending[symbols] + int(rng.integers(1, SYMBOLS))) % SYMBOLS
    ways = [_decoded] if decodes else [_whole]
    approximate = decodes and oracles.checker.facts.get("approximate") is True
    if decodes and not approximate:
        ways.append(_whole)
    agree = _mostly_agree if approximate else _agree
    for ask in ways:
        logp_BQV = ask(oracles.checker, tokens, problems.context)
        for i, (row, cut) in enumerate(zip(rows, cuts, strict=True)):
            until = cut - problems.context
            if not agree(logp_BQV[i, :until], kept[int(row)][:until]):
                path = "decode path" if ask is _decoded else "forward pass"
                raise RefusedError(
                    f"not causal, not stateless or not what it declares: the {path} of a fresh "
                    f"process answered differently for the same row at context {problems.context}"
                )


def _agree(a_QV: Floats, b_QV: Floats) -> bool:
    """Equal within rounding wherever either gives the symbol at least one part in a thousand."""
    likely: NDArray[np.bool_] = np.maximum(a_QV, b_QV) > math.log(1e-3)
    return bool(np.abs(a_QV - b_QV)[likely].max(initial=0.0) < TOLERANCE)


def _mostly_agree(a_QV: Floats, b_QV: Floats) -> bool:
    """The same likeliest token nearly always: rounding may change which rows are evicted."""
    return bool((a_QV.argmax(axis=1) == b_QV.argmax(axis=1)).mean() >= SAME_TOKENS)
