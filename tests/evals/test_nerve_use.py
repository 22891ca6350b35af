"""Tables, features, shaping and stop rules made of spectra: useful, bounded, honest."""

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.errors import UsageError
from nightlab.evals.nerve import features as spectral
from nightlab.evals.nerve import shaping, stopping
from nightlab.evals.nerve.readings import Reading, parse
from nightlab.evals.nerve.table import compact_table, patterns, reference, wasted_width, z_scores
from nightlab.evals.nerve.thirds import THIRDS, Summary, summaries, third


def layer(
    at: int, step: int = 100, *, d: int = 64, expert: int | None = None, **post: Any
) -> list[Reading]:
    """A pre and a post reading of one layer."""
    shared = {"step": step, "layer": at, "expert": expert, "n": 256, "d": d}
    before = {"place": "pre", "pr": 8.0, "pr_corrected": 8.0, "entropy": 2.0, "eee": 0.8}
    after = {"place": "post", "pr": 16.0, "pr_corrected": 16.0, "entropy": 3.0, "eee": 0.6,
             "js": 0.04, "pr_gain_corrected": 2.0}  # fmt: skip
    return list(parse([shared | before, shared | after | post]))


def summary(**changes: Any) -> Summary:
    """Three layers with changes applied to the first."""
    (found,) = summaries(layer(0, **changes) + layer(1) + layer(2))
    return found


def report(step: int, **values: float) -> Summary:
    """A summary with the same value of each metric in every third."""
    cells = {(where, metric): value for where in THIRDS for metric, value in values.items()}
    return Summary(step, 256, (64, 64, 64), cells)  # type: ignore[arg-type]


def test_layers_of_any_depth_fall_into_thirds() -> None:
    assert [third(n, 1) for n in range(1)] == ["mid"]
    assert [third(n, 2) for n in range(2)] == ["early", "late"]
    assert [third(n, 3) for n in range(3)] == ["early", "mid", "late"]
    assert [third(n, 6) for n in range(6)] == ["early"] * 2 + ["mid"] * 2 + ["late"] * 2


def test_a_summary_holds_shares_and_logs_by_third() -> None:
    found = summary()
    assert found.size == (256, (64, 64, 64))
    assert found.values["early", "pr_pre"] == pytest.approx(8 / 64)
    assert found.values["late", "log_gain"] == pytest.approx(math.log(2))
    assert found.values["mid", "se_post"] == pytest.approx(3 / math.log(64))


def test_experts_count_as_one_layer_and_missing_numbers_leave_a_gap() -> None:
    experts = layer(0, expert=0, js=0.02) + layer(0, expert=1, js=0.06)
    (found,) = summaries(experts + layer(1) + layer(2, js=None))
    assert found.values["early", "js"] == pytest.approx(0.04)
    assert ("late", "js") not in found.values
    (bare,) = summaries(parse([{"step": 1, "layer": 0, "place": "post", "flag": "constant"}]))
    assert bare.values == {}
    assert bare.size == (0, (0,))


def test_the_table_shows_value_change_and_z_beside_the_loss() -> None:
    runs = [[report(100, pr_post=0.20 + d, js=0.03)] for d in (-0.02, 0.0, 0.02)]
    against = reference(runs, 100)
    now, before = report(100, pr_post=0.26, js=0.04), report(50, pr_post=0.20, js=0.02)
    text = compact_table(now, loss=1.9, previous=before, against=against, beside={"grad norm": 0.5})
    assert "loss 1.9, grad norm 0.5" in text
    assert "0.260 [+0.060] (+3.0)" in text
    assert "z against 3 reference runs" in text
    assert "N=256, D=64" in text
    assert "Correlational" in text
    assert len(text.splitlines()) <= 14
    assert z_scores(now, against)["mid", "pr_post"] == pytest.approx(3.0)
    assert ("mid", "js") not in z_scores(now, against)


def test_a_reference_of_another_step_or_size_is_named_and_not_used() -> None:
    now = report(100, pr_post=0.2)
    runs = [[report(100, pr_post=0.2)], [report(100, pr_post=0.3)]]
    with pytest.raises(UsageError, match="step 75"):
        reference(runs, 75)
    wide = Summary(100, 256, (128, 128, 128), now.values)
    with pytest.raises(UsageError, match="N, D"):
        reference([[now], [wide]], 100)
    with pytest.raises(UsageError, match="reference"):
        z_scores(wide, reference(runs, 100))
    text = compact_table(wide, loss=2.0, against=reference(runs, 100))
    assert "no z-score" in text
    assert "(+" not in text
    assert "no z-score: 1 reference run" in compact_table(
        now, loss=2.0, against=reference(runs[:1], 100)
    )


def test_inertia_and_repair_are_named_and_healthy_spectra_are_not() -> None:
    inert = Summary(100, 256, (64,) * 3, {("early", "eee_post"): 0.97, ("early", "js"): 0.001})
    assert "inert" in patterns(inert)[0]
    before, after = report(50, pr_pre=0.2, log_gain=0.1), report(100, pr_pre=0.1, log_gain=0.9)
    assert "repairs" in patterns(after, before)[0]
    assert patterns(before, after) == ()
    assert patterns(summary()) == ()


def test_wasted_width_compares_shares_at_equal_step_and_tokens_only() -> None:
    narrow = report(100, pr_post=0.3)
    wide = Summary(100, 256, (128,) * 3, report(100, pr_post=0.2).values)
    assert wasted_width(narrow, wide)
    assert not wasted_width(narrow, Summary(100, 256, (128,) * 3, report(100, pr_post=0.4).values))
    with pytest.raises(UsageError, match="wider"):
        wasted_width(wide, narrow)
    with pytest.raises(UsageError, match="equal"):
        wasted_width(narrow, Summary(50, 256, (128,) * 3, wide.values))


def test_features_have_fixed_length_and_flag_what_is_missing() -> None:
    runs = [report(50, pr_post=0.1, js=0.01), report(100, pr_post=0.2, js=0.04)]
    full = spectral.features(runs, 0.5)
    named = dict(zip(spectral.NAMES, full.values, strict=True))
    assert named["pr_post_early"] == pytest.approx(math.log(0.2 / 0.8))
    assert named["js_mid"] == pytest.approx(0.2)
    assert named["js_mid_slope"] == pytest.approx(0.1 / math.log(2))
    assert named["tokens_per_width"] == pytest.approx(math.log(4))
    present = dict(zip(spectral.NAMES, full.present, strict=True))
    assert present["js_late"]
    assert not present["eee_post_late"]
    empty = spectral.features([], 0.1)
    assert len(empty.values) == len(full.values) == len(spectral.NAMES)
    assert sum(empty.present) == 1


def test_dropping_features_leaves_the_budget_and_zeroes_the_rest() -> None:
    full = spectral.features([report(50, pr_post=0.1), report(100, pr_post=0.2)], 0.7)
    bare = spectral.dropped(full, random.Random(0), share=1.0)
    assert bare.values[-1] == 0.7
    assert bare.present == (False,) * (len(spectral.NAMES) - 1) + (True,)
    assert set(bare.values[:-1]) == {0.0}
    assert spectral.dropped(full, random.Random(0), share=0.0) == full


VALUES = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(VALUES, st.floats(allow_nan=True)), min_size=1, max_size=30))
def test_no_forged_spectrum_changes_the_order_of_unequal_rewards(
    pairs: list[tuple[float, float]],
) -> None:
    rewards, bonuses = [p[0] for p in pairs], [p[1] for p in pairs]
    shaped = shaping.shaped(rewards, bonuses)
    for i, a in enumerate(rewards):
        assert abs(shaped[i] - a) <= shaping.WEIGHT + 1e-9 * abs(a)
        for j, b in enumerate(rewards):
            if a < b:
                assert shaped[i] <= shaped[j]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-20, 20)), max_size=12), st.floats(0.5, 1))
def test_shaping_telescopes_to_the_start_whatever_the_spectra_say(
    states: list[tuple[float, float]], gamma: float
) -> None:
    path = [report(n + 1, pr_pre=p, log_gain=g) for n, (p, g) in enumerate(states)]
    total = 0.0
    for n, before in enumerate(path):
        end = n == len(path) - 1
        after = None if end else path[n + 1]
        total += gamma**n * shaping.shaping(before, after, gamma=gamma, terminal=end)
    start = shaping.potential(path[0]) if path else 0.0
    assert total == pytest.approx(-shaping.WEIGHT * start, abs=1e-12)
    assert all(abs(shaping.potential(s)) <= 1 for s in path)


def test_a_weight_beyond_the_cap_is_refused_and_no_spectra_mean_no_shaping() -> None:
    for call in (
        lambda: shaping.shaping(None, None, weight=0.06),
        lambda: shaping.shaping(None, None, gamma=1.5),
        lambda: shaping.shaped([1.0], [1.0], weight=1.0),
    ):
        with pytest.raises(ValueError, match="weight"):
            call()
    assert shaping.shaping(None, None) == 0.0
    assert shaping.shaped([1.0, 2.0], [5.0, -5.0]) == [1.01, 1.99]


def test_a_run_is_stopped_only_by_a_bad_loss_and_a_lasting_collapse_together() -> None:
    sick = [report(n, eee_post=0.99, js=0.001) for n in (50, 100, 150)]
    well = report(150, eee_post=0.7, js=0.05)
    losses = [2.0, 2.1, 2.2, 2.3]
    assert stopping.veto(3.0, losses, sick).stop
    assert "early layers inert" in stopping.veto(3.0, losses, sick).reason
    assert not stopping.veto(2.0, losses, sick).stop
    assert not stopping.veto(3.0, losses, [*sick[:2], well]).stop
    assert not stopping.veto(3.0, losses, sick[:2]).stop
    assert not stopping.veto(3.0, [], sick).stop
    assert stopping.veto(math.nan, losses, sick).stop
    assert stopping.collapse(report(1, pr_post=0.005)) == "early layers collapsed"
    with pytest.raises(ValueError, match="quantile"):
        stopping.veto(3.0, losses, sick, quantile=1.0)
