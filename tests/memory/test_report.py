"""Every number of a report has a row behind it, and an unlucky campaign reads well too."""

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.errors import LedgerError, UsageError
from nightlab.memory.example import Clock, Example
from nightlab.memory.ledger import Ledger
from nightlab.memory.report.details import detail
from nightlab.memory.report.diff import diff, sizes
from nightlab.memory.report.front import _beats, front
from nightlab.memory.report.front_plot import staircase
from nightlab.memory.report.plot import BASELINE, CONFIRMED, FAILED, REFUSED, RERUN, mark
from nightlab.memory.report.spectra import TABLE
from nightlab.memory.report.write import cell, write_report
from nightlab.vocabulary import Direction, Objective, Program, Purpose, Verdict


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """c1 with gains, c2 without, c3 with a baseline only, c4 with nothing."""
    folder, clock = tmp_path_factory.mktemp("report"), Clock()
    with Ledger.open(f"sqlite:///{folder / 'ledger.db'}", folder, clock=clock) as ledger:
        Example(ledger, clock).play(experiments=14)
        Example(ledger, clock).play(experiments=6, gains=False)
        Example(ledger, clock).play(experiments=0)
        objective = Objective(metric="val_bpb", direction=Direction.LOWER)
        ledger.create_campaign(
            "nothing yet", objective, task="t", tier="bwrap", proposer="c", seed=1
        )
        yield ledger


def values(ledger: Ledger, trials: list[str]) -> list[float]:
    """The metric of trials, read one by one."""
    found = [ledger.trial(name).value("val_bpb") for name in trials]
    return [value for value in found if value is not None]


def test_every_id_in_a_report_is_in_the_ledger(played: Ledger, tmp_path: Path) -> None:
    text = write_report(played, "c1", tmp_path).markdown.read_text()
    experiments = set(re.findall(r"\bc1-\d+\b", text))
    assert experiments <= {experiment.id for experiment in played.experiments("c1")}
    trials = set(re.findall(r"\bc1-\d+/[\w/]+", text)) - {
        f"{experiment}/model" for experiment in experiments
    }
    assert len(trials) > 10
    assert trials <= {trial.id for trial in played.trials(campaign="c1")}


def test_the_headline_is_the_mean_of_the_trials_it_names(played: Ledger, tmp_path: Path) -> None:
    document = json.loads(write_report(played, "c1", tmp_path).json.read_text())
    baseline, best = document["baseline"], document["best"]
    theirs, ours = values(played, baseline["trials"]), values(played, best["trials"])
    assert baseline["value"] == pytest.approx(fmean(theirs))
    assert best["value"] == pytest.approx(fmean(ours))
    gain = 100 * (fmean(theirs) - fmean(ours)) / fmean(theirs)
    assert best["gain_percent"] == pytest.approx(gain)
    low, high = best["gain_percent_interval"]
    assert low < gain < high
    assert best["experiment"] == played.campaign("c1").incumbent
    text = write_report(played, "c1", tmp_path).markdown.read_text()
    assert f"{gain:.1f} % [{low:.1f}, {high:.1f}] better than the baseline" in text
    assert best["pairs"] == 4


def test_levels_are_never_taken_from_trials_that_selected_the_program(played: Ledger) -> None:
    details = detail(played, "c1")
    named = [t for row in details.improvements if row.level for t in row.level.trials]
    purposes = {played.trial(name).purpose for name in named}
    assert purposes == {Purpose.CONFIRM, Purpose.AUDIT}


def test_every_confirmed_experiment_is_in_the_table_with_its_own_estimate(
    played: Ledger, tmp_path: Path
) -> None:
    written = write_report(played, "c1", tmp_path)
    kept = [e for e in played.experiments("c1") if e.verdict is Verdict.CONFIRMED and e.number]
    document = json.loads(written.json.read_text())
    assert [row["experiment"] for row in document["confirmed"]] == [e.id for e in kept]
    text = written.markdown.read_text()
    for experiment in kept:
        estimate = experiment.estimate
        shown = f"{estimate.gain:+.4f} [{estimate.gain_low:+.4f}, {estimate.gain_high:+.4f}]"
        assert f"| {experiment.id} | " in text
        assert shown in text


def test_the_winners_diff_is_the_one_between_the_stored_programs(
    played: Ledger, tmp_path: Path
) -> None:
    text = write_report(played, "c1", tmp_path).markdown.read_text()
    winner = played.experiment(str(played.campaign("c1").incumbent))
    patch = text.split("```diff\n")[1].split("```")[0]
    before = played.program(str(played.experiment("c1-0").program)).program.files["model.py"]
    after = played.program(str(winner.program)).program.files["model.py"]
    added = [line[1:] for line in patch.splitlines() if re.match(r"\+[^+]", line)]
    assert added == [line for line in after.splitlines() if line not in before.splitlines()]
    assert sizes(patch) == (len(added), 0)


def test_the_winners_spectra_stand_beside_the_incumbents(played: Ledger, tmp_path: Path) -> None:
    written = write_report(played, "c1", tmp_path)
    text, document = written.markdown.read_text(), json.loads(written.json.read_text())
    best = document["best"]["experiment"]
    table = document["spectra"]
    assert table["trial"].startswith(f"{best}/")
    rows = played.spectra(table["trial"], layer=TABLE)
    assert [row.step for row in rows] == [table["step"]]
    early = table["thirds"]["early"]["pr_post"]
    assert f"{early['value']:.3f} ({early['z']:+.1f})" in text
    assert (written.markdown.parent / "spectra.png").read_bytes().startswith(b"\x89PNG")
    assert "## Its spectra" not in write_report(played, "c2", tmp_path).markdown.read_text()


def test_a_campaign_without_a_gain_says_so_first(played: Ledger, tmp_path: Path) -> None:
    text = write_report(played, "c2", tmp_path).markdown.read_text()
    assert text.splitlines()[2].startswith("**No improvement was confirmed.** The baseline stands")
    assert "6 experiments ended with a verdict" in text
    assert "## What the winner changes" not in text
    assert "## Failures by kind" in text


@pytest.mark.parametrize("campaign", ["c1", "c2", "c3", "c4"])
def test_a_report_has_no_hole_in_it_at_any_stage(
    played: Ledger, tmp_path: Path, campaign: str
) -> None:
    written = write_report(played, campaign, tmp_path)
    text = written.markdown.read_text()
    assert not re.search(r"\bNone\b(?!\.)|nan|\{\{|\{%|Interval\(", text)
    assert "\n\n\n" not in text
    json.loads(written.json.read_text(), parse_constant=lambda name: pytest.fail(name))
    header = written.plot.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">I", header[16:20])[0] == 1600
    assert sorted(path.name for path in (tmp_path / campaign).iterdir()) == [
        "curve.png",
        *(["front.png"] if front(played, campaign) else []),
        "report.json",
        "report.md",
        *(["spectra.png"] if campaign == "c1" else []),
    ]


def test_every_table_row_has_as_many_cells_as_its_header(played: Ledger, tmp_path: Path) -> None:
    text = write_report(played, "c1", tmp_path).markdown.read_text()
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = table.strip().splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_foreign_text_cannot_break_out_of_its_cell() -> None:
    assert cell("a | b\n# c <script> `x`") == r"a \| b # c &lt;script&gt; \`x\`"


def test_a_report_of_an_unknown_campaign_is_a_usage_error(played: Ledger, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are c1, c2, c3, c4"):
        write_report(played, "c9", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_is_a_ledger_error(played: Ledger, tmp_path: Path) -> None:
    (tmp_path / "c1").write_text("in the way")
    with pytest.raises(LedgerError, match="writing the report"):
        write_report(played, "c1", tmp_path)


def test_kept_discarded_and_failed_trials_are_told_apart(played: Ledger) -> None:
    dots = played.dots("c1")
    verdicts = {e.id: e.verdict for e in played.experiments("c1")}

    def marks(wanted: Verdict) -> set[str]:
        return {
            mark(dot).label
            for dot in dots
            if verdicts[dot.experiment] is wanted and mark(dot) not in (RERUN, BASELINE)
        }

    assert marks(Verdict.CONFIRMED) == {"confirmed", "closing comparison"}
    assert marks(Verdict.DISCARDED) == {"discarded"}
    assert marks(Verdict.FAILED) == {FAILED.label}
    assert CONFIRMED.colour != FAILED.colour
    assert CONFIRMED.marker != FAILED.marker


def test_a_rejected_trial_is_never_drawn_as_a_good_one(played: Ledger) -> None:
    screened = next(d for d in played.dots("c1") if mark(d) is CONFIRMED)
    refused = replace(screened, value=None, verdict=Verdict.REJECTED)
    assert mark(refused) is REFUSED


def test_a_diff_names_both_sides_and_new_files() -> None:
    before = Program({"model.py": "a\n"})
    after = Program({"model.py": "a\n", "new.py": "b\n"})
    assert diff(before, before, "c1-0", "c1-1") == ""
    assert diff(before, after, "c1-0", "c1-1").splitlines() == [
        "--- c1-0/new.py",
        "+++ c1-1/new.py",
        "@@ -0,0 +1 @@",
        "+b",
    ]


def test_the_front_holds_whoever_nobody_beats_on_all_metrics() -> None:
    values = [(3.0, 10.0), (2.9, 12.0), (3.1, 12.0), (2.9, 12.0)]
    signs = (-1, -1)
    kept = [v for v in values if not any(_beats(other, v, signs) for other in values)]
    assert kept == [(3.0, 10.0), (2.9, 12.0), (2.9, 12.0)]


def test_a_report_of_a_goal_with_a_constraint_shows_its_front(
    played: Ledger, tmp_path: Path
) -> None:
    shown = front(played, "c1")
    assert shown is not None
    written = write_report(played, "c1", tmp_path)
    document = json.loads(written.json.read_text())
    assert "](front.png)" in written.markdown.read_text()
    assert (written.markdown.parent / "front.png").read_bytes()[:4] == b"\x89PNG"
    assert [row["experiment"] for row in document["front"]] == [
        p.experiment.id for p in shown.points
    ]
    assert any(point.on_front for point in shown.points)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1),
    st.sampled_from(Direction),
    st.sampled_from(Direction),
)
def test_the_drawn_front_holds_each_pair_of_values_that_no_other_beats(
    points: list[tuple[int, int]], x_way: Direction, y_way: Direction
) -> None:
    signs = (x_way.sign, y_way.sign)
    unbeaten = {p for p in points if not any(_beats(o, p, signs) for o in points)}
    drawn = staircase(points, (x_way, y_way))
    assert set(drawn) == unbeaten
    assert drawn == sorted(drawn, key=lambda p: -x_way.sign * p[0])


def test_a_report_shows_what_the_winner_costs_beside_the_baseline(
    played: Ledger, tmp_path: Path
) -> None:
    written = write_report(played, "c1", tmp_path)
    (params,) = (
        row
        for row in json.loads(written.json.read_text())["costs"]["metrics"]
        if row["metric"] == "params"
    )
    document = json.loads(written.json.read_text())["costs"]
    values = [played.trial(name).value("params") for name in document["trials"]]
    assert {params["baseline"], params["winner"]} <= set(values)
    assert "## What it costs" in written.markdown.read_text()
