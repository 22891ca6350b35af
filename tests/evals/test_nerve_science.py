"""The study's statistics do what they say; its runs repeat; the benchmark holds together."""

import json

import numpy as np
import pytest
import torch

from nightlab.evals import bench_kernels_spectra, science_nerve
from nightlab.evals.nerve import trends
from nightlab.evals.nerve.study import Corpus, Setting, train


def test_two_drifting_curves_correlate_raw_and_not_after_the_trend_is_removed() -> None:
    rng = np.random.default_rng(0)
    steps = list(range(10, 410, 10))
    clock = np.log(steps)
    raw, detrended = [], []
    for _ in range(40):
        metric = -clock + 0.02 * rng.normal(size=40)
        loss = 5 - clock + 0.02 * rng.normal(size=40)
        found = trends.within_run(steps, metric.tolist(), loss.tolist())
        raw.append(found.raw)
        detrended.append(found.detrended)
        assert found.step_alone < -0.99
    assert min(raw) > 0.99
    assert abs(np.mean(detrended)) < 0.15


def test_partial_rank_correlation_removes_what_the_early_loss_already_tells() -> None:
    rng = np.random.default_rng(1)
    early = rng.normal(size=60)
    final = early + 0.1 * rng.normal(size=60)
    echo = (early + 0.1 * rng.normal(size=60)).tolist()
    plain = trends.rank_correlation(echo, final.tolist())
    partial = trends.rank_correlation(echo, final.tolist(), early.tolist())
    assert plain.low > 0.9
    assert partial.low < 0 < partial.high
    real = (final - early).tolist()
    assert trends.rank_correlation(real, final.tolist(), early.tolist()).low > 0.3


def test_repeats_of_one_configuration_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(size=(12, 2))
    repeated = np.repeat(base, 4, axis=0) + 0.01 * rng.normal(size=(48, 2))
    groups = [n // 4 for n in range(48)]
    a, b = repeated[:, 0].tolist(), repeated[:, 1].tolist()
    alone = trends.rank_correlation(a, b)
    together = trends.rank_correlation(a, b, groups=groups)
    assert together.high - together.low > 1.3 * (alone.high - alone.low)


def test_useful_features_lower_the_prediction_error_and_noise_does_not() -> None:
    rng = np.random.default_rng(3)
    useful, noise = rng.normal(size=(60, 2)), rng.normal(size=(60, 2))
    target = useful @ np.array([1.0, -0.5]) + 0.1 * rng.normal(size=60)
    assert trends.prediction_error(useful, target, seed=0) < 0.2
    assert trends.prediction_error(noise, target, seed=0) > 0.8


def test_intervals_are_student_s_and_infinite_for_one_repeat() -> None:
    found = trends.mean_interval([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high - found.value == pytest.approx(4.303 / np.sqrt(3), rel=1e-3)
    assert not trends.mean_interval([5.0]).excludes_zero


def test_a_run_repeats_bit_for_bit_and_its_spectra_carry_true_steps() -> None:
    corpus = Corpus(
        torch.arange(20_000).remainder(251).to(torch.uint8), torch.arange(5000).to(torch.uint8)
    )
    setting = Setting(steps=6, width=16, depth=2)
    first, second = (train(setting, corpus, every=3, tokens=64) for _ in range(2))
    assert first.losses == second.losses
    assert first.readings == second.readings
    assert sorted({r.step for r in first.readings}) == [3, 6]
    assert {r.layer for r in first.readings} == {0, 1}
    muon = train(
        Setting(steps=3, width=16, depth=1, optimizer="muon", penalty="eee_post"), corpus, every=3
    )
    assert muon.loss > 0


@pytest.mark.slow
def test_dead_units_raise_the_spectrum_at_equal_loss_and_not_that_of_the_output() -> None:
    found = science_nerve.study(scale=0.1, only=["E8"])["experiments"]["E8"]
    honest, forged = found["honest"], found["forged"]
    assert forged["loss"] == pytest.approx(honest["loss"], abs=1e-5)
    for before, after in zip(honest["pr_post"], forged["pr_post"], strict=True):
        assert after > 2 * before
    assert forged["pr_out"] == pytest.approx(honest["pr_out"], rel=1e-3)
    json.dumps(found)


@pytest.mark.slow
def test_the_benchmark_reports_its_claims_beside_its_baselines() -> None:
    report = bench_kernels_spectra.run(repeats=1)
    assert set(report) == {"bench", "machine", "date", "settings", "rows", "claims"}
    assert {row["table"] for row in report["rows"]} == {
        "overhead", "five metrics", "participation ratio", "scatter", "accuracy"
    }  # fmt: skip
    exact = next(c for c in report["claims"] if "float64" in c["name"])
    assert exact["holds"]
    assert next(c for c in report["claims"] if "corrected" in c["name"])["holds"]
    json.dumps(report, allow_nan=False)
