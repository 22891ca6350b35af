"""Recall: rows are right and hard to guess, and the decode path cannot be cheated."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.evals import recall, recall_data, task
from nightlab.evals.oracles import Array, Floats, Oracles
from nightlab.evals.recall_data import VOCABULARY, Rows, Shape
from nightlab.vocabulary import Integrity, Measurement

SHAPE = Shape(120, 4)


def answered(row: list[int], at: int) -> int:
    """The right token at a place of a row, found by the rules from what stands before it."""
    context = row[: SHAPE.context]
    follows = {a: b for a, b in itertools.pairwise(context) if a < 64 and b < 64}
    before = row[at - 2]
    return follows[follows[row[at - 1]]] if before == recall_data.TWO else follows[row[at - 1]]


@given(st.integers(0, 2**32), st.sampled_from([3, 4, 8]))
@settings(max_examples=30, deadline=None)
def test_every_answer_follows_from_the_links_of_the_context(seed: int, chains: int) -> None:
    shape = Shape(SHAPE.context, chains)
    tokens, answers = recall_data.rows(shape, 3, np.random.default_rng(seed))
    assert tokens.shape == answers.shape == (3, shape.length)
    for row, told in zip(tokens.tolist(), answers, strict=True):
        symbols = [token for token in row[: shape.context] if token < 64]
        assert len(symbols) == 2 * 3 * chains
        singles, twos, ends = shape.kinds
        assert told.sum() == 3 * singles + 2 * twos + 3 * ends
        for at in np.flatnonzero(told):
            if row[at - 2] != recall_data.TWO:
                first = row[: shape.context]
                assert (row[at - 1], row[at]) in set(itertools.pairwise(first))


def perfect(rows_BT: Rows) -> Floats:
    """Logits that follow each token of whole rows, by the rules."""
    logits: Floats = np.zeros((*rows_BT.shape, VOCABULARY), np.float32)
    for b, row in enumerate(rows_BT.tolist()):
        for at in range(SHAPE.context + 1, len(row) + 1):
            try:
                logits[b, at - 1, answered([*row, 0], at)] = 20
            except KeyError:
                continue
    return logits


@dataclass
class Scripted:
    """An oracle made of rules, with the decode contract or without."""

    decodes: bool = True
    lie: str = ""
    approximate: bool = False
    rows: list[list[int]] = field(default_factory=list)
    asked: int = 0

    @property
    def facts(self) -> Mapping[str, object]:
        return {"context": 64, "decodes": self.decodes, "approximate": self.approximate}

    def ask(self, what: str, *arrays: Array, **options: object) -> Sequence[Array] | None:
        self.asked += 1
        if what in ("nothing", "settle", "forget"):
            self.rows = [] if what == "forget" else self.rows
            return []
        tokens = arrays[0].astype(np.uint8)
        if what == "logits":
            out = perfect(tokens)[:, int(str(options.get("start", 0))) :]
            if self.lie == "peeks":
                known = tokens[:, tokens.shape[1] - out.shape[1] + 1 :]
                for place, after in enumerate(known.T):
                    out[np.arange(len(tokens)), place, after] += 40
            return [out]
        if what == "prefill":
            self.rows = tokens.tolist()
        else:
            self.rows = [[*row, int(new)] for row, new in zip(self.rows, tokens, strict=True)]
        out = perfect(np.array(self.rows, np.uint8))[:, -1]
        if self.lie == "drifts":
            out[:, 1] += 0.1 * self.asked
        if self.lie == "forgets":
            out[:] = 0
        return [out]


@pytest.fixture
def split(tmp_path: Path) -> Path:
    tokens, answers = recall_data.rows(SHAPE, 6, np.random.default_rng(0))
    np.savez(tmp_path / "s.npz", **{"tokens 120": tokens, "answers 120": answers})  # type: ignore[arg-type]
    return tmp_path / "s.npz"


def measured(split: Path, **traits: object) -> Measurement:
    pair = [Scripted(**traits) for _ in range(2)]  # type: ignore[arg-type]
    scorer = recall.Recall(task.load("recall"))
    return scorer.score(split, Oracles(reader=pair[0], checker=pair[1]), np.random.default_rng(1))


@pytest.mark.parametrize("decodes", [True, False])
def test_the_right_answers_score_one_on_either_path(split: Path, decodes: bool) -> None:
    got = measured(split, decodes=decodes)
    assert got.integrity is Integrity.CLEAN, got.reasons
    assert got.metrics["accuracy"] == got.metrics["accuracy@120"] > 0.95


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        ({"accuracy@240"}, {"accuracy@240"}),
        ({"accuracy@240", "params"}, {"accuracy@240"}),
        ({"accuracy@240", "accuracy"}, {"accuracy@120", "accuracy@240", "accuracy"}),
        ({"kv_bytes_per_token"}, {"accuracy@120", "accuracy@240", "accuracy"}),
    ],
)
def test_where_a_goal_names_a_context_the_others_are_left_out(
    tmp_path: Path, wanted: set[str], got: set[str]
) -> None:
    arrays = {}
    for context in (120, 240):
        made = recall_data.rows(Shape(context, 3), 6, np.random.default_rng(0))
        arrays[f"tokens {context}"], arrays[f"answers {context}"] = made
    np.savez(tmp_path / "s.npz", **arrays)  # type: ignore[arg-type]
    scorer = recall.Recall(task.load("recall"))
    metrics = []
    for named in (wanted, set()):
        pair = Oracles(reader=Scripted(), checker=Scripted(), wanted=frozenset(named))
        found = scorer.score(tmp_path / "s.npz", pair, np.random.default_rng(1))
        metrics.append(found.metrics)
    assert set(metrics[0]) == got
    assert metrics[0].items() <= metrics[1].items()


def test_peeking_at_later_tokens_of_whole_rows_is_caught(split: Path) -> None:
    assert measured(split, decodes=False, lie="peeks").integrity is Integrity.TAMPERED


def test_a_decode_path_that_remembers_earlier_calls_is_caught(split: Path) -> None:
    assert measured(split, lie="drifts").integrity is Integrity.TAMPERED


def test_a_decode_path_unlike_the_forward_pass_is_refused(split: Path) -> None:
    assert measured(split, lie="forgets").integrity is Integrity.TAMPERED


def test_declaring_an_approximation_skips_that_check_and_gains_nothing(split: Path) -> None:
    got = measured(split, lie="forgets", approximate=True)
    assert got.integrity is Integrity.CLEAN
    assert got.metrics["accuracy"] < 0.1


def test_scored_rows_come_from_a_secret_that_stays_outside_the_train_folder(tmp_path: Path) -> None:
    short = recall.Recall(task.load("recall"))
    first = short.prepare(tmp_path / "one")
    assert short.prepare(tmp_path / "one") == first
    assert (tmp_path / "one/data/recall/secret").stat().st_mode & 0o077 == 0
    inside = {path.name for path in first.train.iterdir()}
    assert inside == {s.tokens for s in short.sources} | {str(s.mask) for s in short.sources}
    other = short.prepare(tmp_path / "two")
    mine, theirs = (recall.read(splits.search)[0].tokens for splits in (first, other))
    assert not np.array_equal(mine, theirs)


def probes(split: Path, seed: int, context: int = 130) -> Rows:
    scorer = recall.Recall(task.load("recall"))
    rows: Rows = scorer.sample(split, 4, context, np.random.default_rng(seed)).astype(np.uint8)
    return rows


@pytest.mark.parametrize(("context", "row"), [(32, 64), (64, 64), (130, 128), (9000, 2048)])
def test_spectra_are_probed_on_rows_such_as_are_trained_on(
    split: Path, context: int, row: int
) -> None:
    """With questions: beginnings of long contexts are filler, and made honest reports suspect."""
    rows = probes(split, 0, context)
    assert rows.shape == (4, row - 1)
    marks = (rows >= recall_data.ASK).all(axis=0)
    assert int(marks.argmax()) == recall_data.shape_of(row).context


def test_a_probe_cannot_be_known_from_a_seed_without_the_secret_rows(
    split: Path, tmp_path: Path
) -> None:
    tokens, answers = recall_data.rows(SHAPE, 6, np.random.default_rng(9))
    np.savez(tmp_path / "t.npz", **{"tokens 120": tokens, "answers 120": answers})  # type: ignore[arg-type]
    assert np.array_equal(probes(split, 0), probes(split, 0))
    assert not np.array_equal(probes(split, 0), probes(split, 1))
    assert not np.array_equal(probes(split, 0), probes(tmp_path / "t.npz", 0))
