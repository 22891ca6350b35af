"""Numbers, budgets and times of day in any usual form mean the same; no text breaks the grammar."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.agents.goal import read, words
from nightlab.agents.goal.budget import duration, seconds_until
from nightlab.agents.goal.lexeme import number
from nightlab.agents.goal.reading import Reading
from nightlab.errors import UsageError
from nightlab.vocabulary import Direction

METRICS = {
    "val_bpb": Direction.LOWER,
    "accuracy": Direction.HIGHER,
    "params": Direction.LOWER,
    "decode_ms@4096": Direction.LOWER,
    "train_tokens_per_s": Direction.HIGHER,
}
EVENING = datetime(2026, 3, 4, 22, 15)
unhurried = settings(deadline=None)
VOCABULARY = [
    *METRICS,
    *(phrase for phrases in words.METRICS.values() for phrase in phrases),
    *(phrase for phrases in words.KINDS.values() for phrase in phrases),
    *(phrase for phrases in words.COMPARES.values() for phrase in phrases),
    *words.TIMES,
    *words.FRACTIONS,
    *words.SECONDS,
    *words.UNITS,
    *words.DURATIONS,
    *("5", "-1", "0", "200k", "1e-3", "1e308", "99", "2.9", "until 6:30", "by 7 am", ",", "zebra"),
]


def told(sentence: str) -> Reading:
    return read(sentence, METRICS, "val_bpb", EVENING)


def seconds(budget: str) -> float | None:
    return told(f"lower val_bpb {budget}").objective.budget.seconds


@unhurried
@given(st.text(max_size=120))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(UsageError):
        told(text)


@unhurried
@given(st.lists(st.sampled_from(VOCABULARY), max_size=12))
def test_any_jumble_of_the_fields_words_is_read_or_refused(phrases: list[str]) -> None:
    with suppress(UsageError):
        objective = told(" ".join(phrases)).objective
        assert objective.direction is METRICS[objective.metric]
        assert (objective.target_percent or 1) > 0
        assert (objective.budget.seconds or 1) > 0
        assert all(c.metric != objective.metric and c.value > 0 for c in objective.constraints)


@unhurried
@given(st.lists(st.sampled_from(VOCABULARY), max_size=6), st.integers(0, 6))
def test_a_foreign_word_is_never_ignored(phrases: list[str], at: int) -> None:
    sentence = ["lower val_bpb", *phrases]
    sentence.insert(at, "zebra")
    with pytest.raises(UsageError):
        told(" ".join(sentence))


@unhurried
@given(st.integers(1, 10**12))
def test_whole_numbers_read_the_same_plain_with_commas_and_with_scales(value: int) -> None:
    assert number(str(value)) == number(f"{value:,}") == value
    assert number(f"{value}k") == value * 1e3
    assert number(f"{value}M") == value * 1e6


@unhurried
@given(st.floats(1e-9, 1e12))
def test_any_positive_float_is_read_as_python_writes_it(value: float) -> None:
    assert number(repr(value)) == value
    assert number(f"{value:e}") == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    "text", ["", "k", "1..2", "1,2", "12,34", "--1", "1e", "4kk", "0x10", "nan"]
)
def test_what_is_no_number_is_not_read_as_one(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        number(text)


@unhurried
@given(st.floats(0.01, 99.9).map(lambda p: round(p, 2)))
def test_a_percentage_and_the_share_that_is_left_are_the_same_aim(percent: float) -> None:
    by = told(f"lower params by {percent} %").objective.target_percent
    to = told(f"lower params to {100 - percent:.2f}% of the baseline").objective.target_percent
    assert by == pytest.approx(percent) == pytest.approx(to)


@unhurried
@given(st.floats(1.01, 1000))
def test_times_faster_raises_a_throughput_and_divides_a_time_by_that_factor(times: float) -> None:
    raised = told(f"make training {times}x faster").objective.target_percent
    lowered = told(f"make decoding {times}x faster").objective.target_percent
    assert raised == pytest.approx(100 * (times - 1), rel=1e-6)
    assert lowered == pytest.approx(100 * (1 - 1 / times), rel=1e-6)


@unhurried
@given(st.floats(0, 99).map(lambda p: round(p, 3)))
def test_within_a_percentage_bounds_each_metric_on_its_worse_side(percent: float) -> None:
    (low,) = told(f"lower val_bpb within {percent} % accuracy").objective.constraints
    (high,) = told(f"raise accuracy within {percent} % of val_bpb").objective.constraints
    assert low.holds(1 - percent / 100, 1.0)
    assert not low.holds(0.999 - percent / 100, 1.0)
    assert high.holds(1 + percent / 100, 1.0)
    assert not high.holds(1.001 + percent / 100, 1.0)


@unhurried
@given(st.integers(0, 50), st.integers(0, 59), st.integers(1, 59))
def test_hours_minutes_and_seconds_add_up_in_every_spelling(h: int, m: int, s: int) -> None:
    total = 3600 * h + 60 * m + s
    assert seconds(f"in {h} hours {m} minutes and {s} seconds") == total
    assert seconds(f"for {h}h{m}min{s}s") == total
    assert seconds(f"within {total} s") == total


@unhurried
@given(st.integers(1, 10**6))
def test_a_duration_in_whole_seconds_is_shown_so_that_it_reads_back(total: int) -> None:
    shown = seconds(f"in {duration(total)}")
    assert shown is not None
    assert abs(shown - total) < (60 if total >= 3600 else 1)


@unhurried
@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), st.integers(0, 24 * 60 - 1))
def test_until_a_time_of_day_ends_within_a_day_at_that_time(now: datetime, minutes: int) -> None:
    utc = now.replace(tzinfo=UTC)
    left = seconds_until(utc, minutes)
    end = utc + timedelta(seconds=left)
    assert 0 < left <= 86400
    assert (end.hour, end.minute) == divmod(minutes, 60)


def test_the_night_the_clocks_change_is_an_hour_longer() -> None:
    evening = datetime(2026, 10, 24, 22, 0, tzinfo=ZoneInfo("Europe/Berlin"))
    assert seconds_until(evening, 7 * 60) == 10 * 3600


def test_after_midnight_overnight_ends_the_same_morning() -> None:
    night = datetime(2026, 3, 5, 1, 0)
    budget = read("lower val_bpb overnight", METRICS, "val_bpb", night).objective.budget
    assert budget.seconds == 6 * 3600
