"""Patterns of full and shared layers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.kernels.index_cache import IndexPattern, flops_ratio, predicted_speedup

patterns = st.text("FS", min_size=0, max_size=40).map(lambda rest: IndexPattern("F" + rest))


@pytest.mark.parametrize("letters", ["", "SFFF", "FSX", "fsss"])
def test_a_pattern_that_no_model_could_run_is_refused(letters: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|share"):
        IndexPattern(letters)


@given(patterns)
def test_every_layer_uses_the_nearest_full_layer_before_it(pattern: IndexPattern) -> None:
    for layer in range(len(pattern)):
        earlier = [j for j in range(layer + 1) if pattern.letters[j] == "F"]
        assert pattern.source(layer) == max(earlier)


@given(patterns)
def test_the_layers_served_by_all_full_layers_are_all_layers_once(pattern: IndexPattern) -> None:
    served = [layer for full in pattern.full_layers for layer in pattern.served(full)]
    assert served == list(range(len(pattern)))
    assert sum(map(pattern.is_last_served, range(len(pattern)))) == len(pattern.full_layers)


@pytest.mark.parametrize(
    ("offset", "letters"), [(1, "FSSSFSSSF"), (2, "FFSSSFSSS"), (3, "FFFSSSFSS")]
)
def test_offsets_give_the_published_conventions(offset: int, letters: str) -> None:
    assert str(IndexPattern.from_freq(9, 4, offset)) == letters


def test_offset_three_at_78_layers_has_the_published_21_full_layers() -> None:
    pattern = IndexPattern.from_freq(78, 4, 3)
    assert pattern.full_layers == (0, 1, 2, *range(6, 75, 4))
    assert len(pattern.full_layers) == 21


@given(patterns)
def test_full_layers_rebuild_their_pattern(pattern: IndexPattern) -> None:
    assert IndexPattern.from_full_layers(len(pattern), pattern.full_layers) == pattern


def test_a_pipeline_stage_that_starts_with_a_shared_layer_is_refused() -> None:
    pattern = IndexPattern("FSSSFSSS")
    assert str(pattern.stage(4, 8)) == "FSSS"
    with pytest.raises(ValueError, match="nothing to share"):
        pattern.stage(3, 8)


def test_the_cost_model_gives_the_published_ratio_of_core_to_indexer() -> None:
    assert 1 / flops_ratio(2 * 17 * 2048, 2048, 128, 576, 512, 64, 128) == pytest.approx(
        1, rel=0.01
    )
    assert predicted_speedup(0.0, 0.25) == 1.0
    assert predicted_speedup(1e9, 0.25) == pytest.approx(4.0)
