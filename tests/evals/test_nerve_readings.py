"""Readings are believed in form only after checks; sizes that differ are not compared."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from nightlab.errors import UsageError
from nightlab.evals.nerve.agreement import disagreements, last
from nightlab.evals.nerve.probe import probe, token_batches
from nightlab.evals.nerve.readings import Reading, comparable, parse


def record(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "step": 50, "layer": 0, "expert": None, "path": "blocks.0", "place": "post", "n": 256,
        "d": 64, "entropy": 3.0, "pr": 12.0, "pr_corrected": 12.5, "eee": 0.7, "js": 0.02,
        "pr_gain": 1.2, "pr_gain_corrected": 1.25, "eee_diff": -0.05, "flag": None,
    }  # fmt: skip
    return values | changes


def reading(**changes: Any) -> Reading:
    return parse([record(**changes)])[0]


class Small(nn.Module):
    """A residual feed-forward over embedded tokens, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.ups = nn.ModuleList(nn.Linear(16, 48) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(48, 16) for _ in range(2))
        self.drop = nn.Dropout(0.5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.embed(tokens)
        for up, down in zip(self.ups, self.downs, strict=True):
            x = x + down(self.drop(functional.gelu(up(x))))
        return x


@pytest.mark.parametrize(
    "bad",
    [
        {"pr": math.nan},
        {"pr": 65.0},
        {"pr": 0.5},
        {"eee": 1.5},
        {"js": 0.8},
        {"entropy": math.log(64) + 0.1},
        {"entropy": "3"},
        {"layer": -1},
        {"layer": 1.5},
        {"step": True},
        {"place": "logits"},
        {"path": 3},
        {"expert": "1"},
        {"surprise": 1},
        {"pr_gain": math.inf},
    ],
    ids=str,
)
def test_a_record_of_impossible_form_or_range_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="spectra"):
        parse([record(**bad)])


def test_lists_that_are_no_lists_or_far_too_long_are_refused() -> None:
    for bad in ("text", {"step": 1}, [3], [{"step": 1}], [record()] * 200_001):
        with pytest.raises(UsageError):
            parse(bad)


def test_a_good_record_keeps_its_numbers_and_a_flagged_one_has_none() -> None:
    assert reading().pr_corrected == 12.5
    assert reading().size == (256, 64)
    flagged = parse([{"step": 3, "layer": 1, "place": "pre", "flag": "fewer than 4 tokens"}])[0]
    assert (flagged.pr, flagged.n, flagged.flag) == (None, 0, "fewer than 4 tokens")


def test_spectra_of_different_tokens_or_width_are_not_compared() -> None:
    comparable([reading()], [reading(path="other.name")])
    comparable([reading()], [reading(layer=1, n=512)])
    for other in ({"n": 512}, {"d": 128}):
        with pytest.raises(UsageError, match="different size"):
            comparable([reading()], [reading(**other)])


def test_a_probe_restores_modes_and_gives_intervals_over_batches() -> None:
    torch.manual_seed(0)
    model = Small().train()
    model.ups[1].eval()
    batches = token_batches([n * 7 % 31 for n in range(4000)], batches=3, rows=4, length=32)
    assert [tuple(b.shape) for b in batches] == [(4, 32)] * 3
    report = probe(model, batches, tokens=64)
    assert model.training
    assert not model.ups[1].training
    assert [f.layer for f in report.found] == [0, 1]
    assert len(report.batches) == 3
    assert len(report.eigenvalues) == len(report.readings)
    for at, numbers in report.intervals().items():
        interval = numbers["pr_corrected"]
        values = [
            r.pr_corrected
            for b in report.batches
            for r in b
            if (r.layer, r.place) == (at[0], at[3])
        ]
        assert interval.value == pytest.approx(sum(v for v in values if v is not None) / 3)
        assert interval.low < interval.value < interval.high


def test_a_probe_says_when_there_is_nothing_to_find_or_nothing_to_probe_with() -> None:
    with pytest.raises(UsageError, match="no feed-forward"):
        probe(
            nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 4)),
            [torch.zeros(2, 8, dtype=torch.long)],
        )
    with pytest.raises(UsageError, match="batch"):
        probe(Small(), [])
    with pytest.raises(UsageError, match="too few"):
        token_batches([1, 2, 3], batches=1, rows=1, length=8)


def at_rest(seed: int) -> tuple[Reading, ...]:
    """The spectra of one model on a batch that follows from a seed."""
    torch.manual_seed(0)
    model = Small()
    batch = torch.randint(32, (8, 32), generator=torch.Generator().manual_seed(seed))
    return tuple(probe(model, [batch], tokens=128).batches[0])


def test_the_same_model_on_the_same_tokens_agrees_and_on_others_does_not() -> None:
    assert disagreements(at_rest(1), at_rest(1)) == ()
    assert disagreements(at_rest(1), at_rest(2)) != ()


@pytest.mark.parametrize(
    ("forgery", "word"),
    [
        ({"pr_corrected": 40.0}, "pr_corrected 40"),
        ({"eee": 0.05}, "eee"),
        ({"entropy": 0.3}, "entropy"),
        ({"pr_corrected": None}, "one side"),
        ({"d": 96}, "(128, 96) reported"),
        ({"n": 64}, "(64, "),
    ],
)
def test_a_forged_number_is_flagged(forgery: dict[str, object], word: str) -> None:
    honest = at_rest(7)
    post = next(r for r in honest if r.place == "post")
    forged = [parse([vars(r) | forgery])[0] if r is post else r for r in honest]
    reasons = disagreements(forged, honest)
    assert len(reasons) == 1
    assert "layer 0 post" in reasons[0]
    assert word in reasons[0]


@given(st.floats(-4, 4))
def test_a_number_is_flagged_where_it_is_off_by_more_than_its_margin(sigmas: float) -> None:
    """Of few tokens as of many: the margin is for rounding and not for sampling."""
    for n in (32, 256):
        found = [reading(n=n, pr_corrected=5.0)]
        told = [reading(n=n, pr_corrected=5.0 + 0.1 * sigmas)]
        if abs(abs(sigmas) - 1) > 1e-9:
            assert bool(disagreements(told, found)) == (abs(sigmas) > 1)


def test_layers_that_only_one_side_saw_and_missing_recomputation_are_flagged() -> None:
    honest = at_rest(7)
    first = [r for r in honest if r.layer == 0]
    assert any("found, not reported" in r for r in disagreements(first, honest))
    assert any("reported, not found" in r for r in disagreements(honest, first))
    assert disagreements(honest, []) == ("spectra could not be recomputed",)
    assert disagreements([], []) == ()


def test_a_forged_number_does_not_hide_among_readings_of_the_same_place() -> None:
    honest = [reading(expert=0, eee=0.7), reading(expert=0, eee=0.5)]
    assert disagreements(honest, honest) == ()
    forged = [reading(expert=0, eee=0.9), honest[1]]
    assert "0.9 reported" in " ".join(disagreements(forged, honest))
    assert "found, not reported" in " ".join(disagreements(honest[1:], honest))


def test_the_last_step_is_the_one_that_is_checked() -> None:
    readings = [reading(step=50), reading(step=100), reading(step=100, layer=1)]
    assert [r.step for r in last(readings)] == [100, 100]
    assert last([]) == ()
