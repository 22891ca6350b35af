"""Corpora of a person's own text: what is refused, how it is split, that none is ever lost."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.errors import UsageError
from nightlab.evals import corpus, own_corpus, task
from nightlab.vocabulary import Split


def lines(seed: int, count: int = 3000) -> str:
    return "".join(f"line {i} of text {seed} says {i * i * (seed + 7)}\n" for i in range(count))


def written(folder: Path, count: int, length: int = 300) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.txt" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_text(lines(i, length))
    return paths


def contents(corpus: own_corpus.OwnCorpus, home: Path) -> dict[Split, bytes]:
    splits = corpus.splits(home)
    return {
        Split.TRAIN: (splits.train / "train.bin").read_bytes(),
        Split.SEARCH: splits.search.read_bytes(),
        Split.HOLDOUT: splits.holdout.read_bytes(),
    }


def test_many_files_are_split_by_file_and_none_spans_two_parts(tmp_path: Path) -> None:
    paths = written(tmp_path / "texts", 40)
    made = own_corpus.add("many", paths, tmp_path)
    parts = contents(made, tmp_path)
    assert made.split == "by file"
    for path in paths:
        holders = [part for part, text in parts.items() if path.read_bytes()[:500] in text]
        assert len(holders) == 1


def test_one_file_is_split_into_disjoint_spans_cut_at_line_ends(tmp_path: Path) -> None:
    (path,) = written(tmp_path, 1, 5000)
    made = own_corpus.add("one", [path], tmp_path)
    parts = contents(made, tmp_path)
    assert made.split == "by span"
    assert sorted(b"".join(parts.values()).splitlines()) == sorted(path.read_bytes().splitlines())
    assert all(text.endswith(b"\n") for text in parts.values())


WORDS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, st.integers(3, 3000)), min_size=1, max_size=40))
def test_no_line_is_in_two_parts_and_no_character_is_cut(files: list[tuple[str, int]]) -> None:
    texts = [
        "".join(f"{i}.{j} {word}\n" for j in range(count)).encode()
        for i, (word, count) in enumerate(files)
    ]
    if sum(map(len, texts)) < own_corpus.LEAST_BYTES:
        return
    parts, how = own_corpus.split(texts)
    seen = Counter(line for text in parts.values() for line in text.decode().split("\n") if line)
    assert max(seen.values()) == 1
    assert len(parts[Split.TRAIN]) > 0.4 * sum(map(len, texts))
    assert min(len(parts[Split.SEARCH]), len(parts[Split.HOLDOUT])) > 1000
    if how == "by file":
        owners = [{line.split(b".")[0] for line in t.splitlines()} for t in parts.values()]
        assert sum(map(len, owners)) == len(set.union(*owners))


def test_the_same_text_twice_counts_once(tmp_path: Path) -> None:
    first, second = written(tmp_path / "texts", 2, 2000)
    copy = tmp_path / "texts" / "copy.txt"
    copy.write_text(first.read_text() + "\n")
    made = own_corpus.add("twice", [first, second, copy, first], tmp_path)
    assert (made.files, made.duplicates) == (2, 1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x89PNG\0\0" * 20000, "binary"),
        (b"caf\xe9 " * 20000, "UTF-8"),
        (b"  \n", "empty"),
        (b"short text\n", "too few"),
    ],
)
def test_what_is_no_corpus_is_refused_with_the_reason(
    content: bytes, says: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageError, match=says):
        own_corpus.add("bad", [tmp_path / "file"], tmp_path)
    assert own_corpus.known(tmp_path) == []


def test_a_folder_gives_its_text_files_and_says_what_it_left_out(tmp_path: Path) -> None:
    written(tmp_path / "texts", 25)
    (tmp_path / "texts" / "picture.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "texts" / "nothing.txt").write_text("")
    (tmp_path / "texts" / ".secret").write_text(lines(99))
    made = own_corpus.add("folder", [tmp_path / "texts"], tmp_path)
    assert (made.files, made.other, made.empty) == (25, 1, 1)
    assert not any(b"of text 99" in text for text in contents(made, tmp_path).values())


@pytest.mark.parametrize("name", ["", "../escape", "a/b", "UPPER", ".hidden"])
def test_a_name_that_could_leave_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name"):
        own_corpus.add(name, written(tmp_path, 1, 3000), tmp_path)
    with pytest.raises(UsageError, match="unknown corpus"):
        own_corpus.find(name, tmp_path)


def test_another_text_takes_the_place_only_on_request_and_the_old_version_stays(
    tmp_path: Path,
) -> None:
    old_path, new_path = written(tmp_path / "texts", 2, 3000)
    old = own_corpus.add("mine", [old_path], tmp_path)
    before = contents(old, tmp_path)
    with pytest.raises(UsageError, match="--replace"):
        own_corpus.add("mine", [new_path], tmp_path)
    assert own_corpus.find("mine", tmp_path) == old
    new = own_corpus.add("mine", [new_path], tmp_path, instead=True)
    assert own_corpus.find("mine", tmp_path) == new != old
    assert contents(own_corpus.find(old.pinned, tmp_path), tmp_path) == before


def test_a_task_on_an_own_corpus_is_prepared_from_it(tmp_path: Path) -> None:
    made = own_corpus.add("mine", written(tmp_path / "texts", 30), tmp_path)
    mine = own_corpus.on(task.load("byte_lm"), "mine")
    splits = corpus.prepare(mine, tmp_path)
    assert splits == made.splits(tmp_path)
    with pytest.raises(UsageError, match="there are: mine"):
        corpus.prepare(own_corpus.on(task.load("byte_lm"), "yours"), tmp_path)
