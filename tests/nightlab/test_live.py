"""The view of a running campaign fits its terminal, lets nothing foreign through, and keeps stdout
clean."""

import io
import math
import os
import pty
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from nightlab import live
from nightlab.live import BARS, Activity, Snapshot, clean, clock, fraction, line, screen, sparkline
from nightlab.vocabulary import Direction, Verdict

NOW = datetime(2026, 3, 4, 22, 15)
unhurried = settings(deadline=None)
SNAPSHOT = Snapshot(
    goal="lower val_bpb in 10 minutes",
    campaign="c12",
    task="byte_lm",
    tier="process",
    proposer="catalogue",
    stage="searching",
    metric="val_bpb",
    direction=Direction.LOWER,
    baseline=3.4012,
    noise_sd=0.0112,
    best=2.7431,
    best_experiment="e12",
    best_verdict=Verdict.CONFIRMED,
    gain_percent=19.35,
    curve=(3.4012, 3.1, 2.9, 2.7431),
    trials=39,
    trials_total=200,
    counts={Verdict.CONFIRMED: 2, Verdict.SCREENED: 3, Verdict.DISCARDED: 20, Verdict.FAILED: 4},
    seconds=372,
    seconds_total=600,
    eta_seconds=228,
    activities={
        "e35": Activity(doing="training small", edits="position=rotary", progress=0.5, seconds=7),
        "e36": Activity(doing="confirming on full"),
    },
    log=("e33 failed: out of memory", "e34 confirmed: position=rotary"),
)


def drawn(snapshot: Snapshot, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, height=60, color_system=None)
    with console.capture() as capture:
        console.print(screen(snapshot, NOW, width))
    return capture.get()


@pytest.mark.parametrize("width", [80, 120])
def test_the_view_shows_goal_gain_counts_budget_and_what_is_under_way(width: int) -> None:
    text = drawn(SNAPSHOT, width)
    for shown in (
        "lower val_bpb in 10 minutes",
        "c12  byte_lm · process · catalogue",
        "2.7431 val_bpb   19.4 % better   e12 confirmed",
        "3.4012   noise sd 0.0112   lower is better",
        "5 accepted",
        "20 refused",
        "4 failed",
        "39 of 200",
        "6:12 of 10:00   3:48 left, ends 22:18",
        "█▅▃▁",
        "training small",
        "50 %",
        "position=rotary",
        "e34 confirmed: position=rotary",
        "searching",
    ):
        assert shown in text


@pytest.mark.parametrize("width", [20, 40, 80, 120, 300])
def test_no_line_is_wider_than_the_terminal_or_120_columns(width: int) -> None:
    crowd = {f"e{i}": Activity(doing="training " * 20, edits="x" * 900) for i in range(30)}
    full = replace(SNAPSHOT, goal="a goal " * 60, activities=crowd, log=("word " * 200,) * 50)
    lines = drawn(full, width).splitlines()
    assert max(map(cell_len, lines)) <= min(width, 120)
    assert len(lines) <= (30 if width >= 80 else 45)


def test_a_campaign_that_has_measured_nothing_yet_can_be_shown() -> None:
    empty = Snapshot(
        goal="lower val_bpb",
        task="byte_lm",
        tier="bwrap",
        proposer="catalogue",
        stage="starting",
        metric="val_bpb",
        direction=Direction.LOWER,
    )
    assert "not measured yet" in drawn(empty)
    assert line(empty) == "starting, 0:00; 0 trials"


def test_the_plain_line_says_what_the_view_says() -> None:
    assert line(SNAPSHOT) == (
        "searching, 6:12; val_bpb 2.7431 from 3.4012, +19.4 % (confirmed); 39 trials; 5 accepted; "
        "20 refused; 4 failed; 3:48 left; e35 training small 50 %; e36 confirming on full"
    )


@unhurried
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_foreign_text_cannot_draw_outside_its_place(text: str) -> None:
    told = replace(
        SNAPSHOT,
        goal=text,
        campaign=text,
        stage=text,
        activities={text: Activity(doing=text, edits=text)},
        log=(text, text),
    )
    shown = drawn(told)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert {cell_len(row) for row in shown.splitlines() if row} == {80}
    assert line(told).isprintable()


def test_escape_sequences_and_markup_are_shown_as_plain_words() -> None:
    assert clean("a\x1b[31mred\x1b[0m\x1b]0;title\x07 b\u202ec\n\x9bd") == "ared b c  d"
    assert "[bold]x[/bold]" in drawn(replace(SNAPSHOT, log=("[bold]x[/bold]",)))


@unhurried
@given(st.none() | st.floats())
def test_self_reported_progress_stays_between_nothing_and_all(progress: float | None) -> None:
    done = fraction(progress)
    assert done is None or 0 <= done <= 1
    assert "training" in drawn(
        replace(SNAPSHOT, activities={"e1": Activity(doing="training", progress=progress)})
    )


@unhurried
@given(st.lists(st.floats(), max_size=200), st.integers(0, 60))
def test_a_sparkline_has_a_bar_per_value_as_far_as_there_is_room(
    values: list[float], width: int
) -> None:
    bars = sparkline(values, width)
    finite = [value for value in values if math.isfinite(value)]
    assert len(bars) == min(width, len(finite))
    assert set(bars) <= set(BARS)


@unhurried
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_a_sparkline_rises_and_falls_with_its_values(values: list[float]) -> None:
    bars = [BARS.index(bar) for bar in sparkline(values, len(values))]
    ordered = [bar for _, bar in sorted(zip(values, bars, strict=True))]
    assert ordered == sorted(ordered)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (228.9, "3:48"), (7428, "2:03:48"), (-1, "-"), (math.nan, "-"), (math.inf, "-")],
)
def test_a_duration_is_shown_as_a_clock_shows_it(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_without_a_terminal_lines_come_at_the_start_now_and_then_and_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    third = threading.Event()
    taken: list[int] = []

    def take() -> Snapshot:
        taken.append(len(taken))
        if len(taken) == 3:
            third.set()
        return replace(SNAPSHOT, trials=len(taken))

    with live.watch(take, every=0.005):
        assert third.wait(30)
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == len(taken) >= 4
    assert "; 1 trial;" in said.err.splitlines()[0]


def test_a_snapshot_that_cannot_be_taken_does_not_end_the_campaign(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken() -> Snapshot:
        raise RuntimeError("the ledger\nis busy")

    with live.watch(broken):
        worked = True
    assert worked
    assert "no fresh view: RuntimeError: the ledger is busy" in capsys.readouterr().err


PROGRAM = """
import sys
from nightlab import live
from nightlab.vocabulary import Direction
snapshot = live.Snapshot(goal="lower val_bpb", task="byte_lm", tier="process", stage="searching",
    proposer="catalogue", metric="val_bpb", direction=Direction.LOWER)
with live.watch(lambda: snapshot):
    print("the result")
"""


def on_a_terminal(**environment: str) -> tuple[str, str]:
    """Standard output, a pipe, and what the terminal at stderr received."""
    ours, theirs = pty.openpty()
    environ = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environ | {"TERM": "xterm-256color", "PYTHONUTF8": "1"} | environment,
        timeout=60,
        check=True,
    )
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal:
        received = b""
        while chunk := _available(terminal):
            received += chunk
    return done.stdout.decode(), received.decode()


def _available(terminal: io.RawIOBase) -> bytes:
    try:
        return terminal.read(65536) or b""
    except OSError:
        return b""


def test_on_a_terminal_the_view_is_redrawn_on_stderr_and_stdout_stays_clean() -> None:
    out, err = on_a_terminal()
    assert out == "the result\n"
    assert "\x1b[?25l" in err
    assert "╭─" in err


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_cannot_or_should_not_redraw_gets_plain_lines(
    environment: dict[str, str],
) -> None:
    out, err = on_a_terminal(**environment)
    assert out == "the result\n"
    assert "\x1b" not in err
    assert "searching, 0:0" in err
