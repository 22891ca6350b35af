"""Byte-pair encodings and token shards: exact bytes, nothing learned from what is scored."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers")

from nightlab.errors import UsageError
from nightlab.evals import own_corpus, shards
from nightlab.evals.bpe import START, Bpe
from nightlab.evals.task import Splits

SAMPLE = "".join(f"the {i}th line, with é and 日本 in it\n" for i in range(2000)).encode()
BPE = Bpe.train(SAMPLE, 400)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_every_text_can_be_encoded_and_its_bytes_are_counted_exactly(text: str) -> None:
    tokens = BPE.encode(text.encode())
    assert tokens[0] == START
    assert START not in tokens[1:]
    assert BPE.bytes_per_token()[tokens].sum() == len(text.encode())


def test_an_encoding_read_back_encodes_the_same(tmp_path: Path) -> None:
    BPE.save(tmp_path / "bpe.json")
    again = Bpe.load(tmp_path / "bpe.json")
    assert again.vocabulary == BPE.vocabulary <= 400
    assert np.array_equal(again.encode(SAMPLE), BPE.encode(SAMPLE))


def text_corpus(home: Path, name: str = "text") -> Splits:
    texts = [
        "".join(f"{word} {n} and {n * i} of file {i}\n" for n in range(400)).encode()
        for i, word in enumerate(["alpha", "beta", "gamma", "delta"] * 8)
    ]
    return own_corpus.add_texts(name, texts, home).splits(home)


def test_shards_hold_the_corpus_in_tokens_and_count_its_raw_bytes(tmp_path: Path) -> None:
    corpus = text_corpus(tmp_path)
    splits, made = shards.prepare(corpus, 300, tmp_path)
    assert sorted(path.name for path in splits.train.iterdir()) == ["train.u16"]
    for split, path in (("search", corpus.search), ("holdout", corpus.holdout)):
        tokens = splits.search if split == "search" else splits.holdout
        assert shards.byte_count(tokens) == made.bytes[split] == len(path.read_bytes())
        assert len(shards.read(tokens)) == made.tokens[split] + 1
        assert shards.read(tokens).max() < made.vocabulary <= 300


def test_a_larger_vocabulary_takes_fewer_tokens_for_the_same_bytes(tmp_path: Path) -> None:
    corpus = text_corpus(tmp_path)
    _, small = shards.prepare(corpus, 270, tmp_path)
    _, large = shards.prepare(corpus, 350, tmp_path)
    assert large.tokens["search"] < small.tokens["search"]
    assert large.bytes == small.bytes
    assert large.digest != small.digest


def test_the_encoding_is_learned_from_the_train_split_alone(tmp_path: Path) -> None:
    corpus = text_corpus(tmp_path)
    splits, _ = shards.prepare(corpus, 300, tmp_path)
    corpus.search.write_bytes(b"zqzqzqzq " * 5000)
    other, _ = shards.prepare(corpus, 301, tmp_path)
    learned = json.loads((splits.search.parent / "tokenizer.json").read_text())
    beside = json.loads((other.search.parent / "tokenizer.json").read_text())
    assert (
        learned["model"]["merges"] == beside["model"]["merges"][: len(learned["model"]["merges"])]
    )


def test_a_split_that_ends_within_a_character_still_counts_whole_ones(tmp_path: Path) -> None:
    corpus = text_corpus(tmp_path)
    corpus.search.write_bytes("日本".encode()[:-1])
    splits, made = shards.prepare(corpus, 300, tmp_path)
    assert made.bytes["search"] == shards.byte_count(splits.search) == 3


@pytest.mark.parametrize("vocabulary", [0, 256, 65_537])
def test_a_vocabulary_that_cannot_be_stored_is_refused(vocabulary: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vocabulary"):
        shards.prepare(text_corpus(tmp_path), vocabulary, tmp_path)
