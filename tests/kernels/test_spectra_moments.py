"""Streaming moments equal one pass, in any split; both routes to a spectrum agree."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nightlab.kernels import spectra
from nightlab.kernels.spectra import Moments


def tokens(n: int, d: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(1, 0.1, d, dtype=torch.float64)
    return mean + scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


def assert_same(a: Moments, b: Moments) -> None:
    assert a.n == b.n
    for name in ("mean", "m2", "third", "fourth"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 99))
def test_streaming_equals_one_pass_for_any_split(sizes: list[int], seed: int) -> None:
    x = tokens(sum(sizes) + 1, 9, seed, mean=5.0)
    streamed = Moments(9, dtype=torch.float64)
    for block in torch.split(x, [*sizes, 1]):
        streamed.update(block)
    assert_same(streamed, Moments.of(x, dtype=torch.float64))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_merging_is_associative_and_changes_neither_operand(a: int, b: int, c: int) -> None:
    parts = [Moments.of(tokens(n, 5, n, mean=n), dtype=torch.float64) for n in (a, b, c)]
    left = parts[0].merge(parts[1]).merge(parts[2])
    right = parts[0].merge(parts[1].merge(parts[2]))
    assert_same(left, right)
    assert_same(parts[0], Moments.of(tokens(a, 5, a, mean=a), dtype=torch.float64))


def test_a_large_mean_costs_no_precision_in_float32() -> None:
    plain, moved = tokens(4096, 96), tokens(4096, 96) + 1000
    streamed = Moments(96)
    for block in torch.split(moved.float(), 512):
        streamed.update(block)
    naive = moved.float().T @ moved.float() / 4096
    naive = naive - torch.outer(moved.float().mean(0), moved.float().mean(0))
    truth = spectra.spread(plain).participation_ratio()
    assert spectra.spread(streamed).participation_ratio() == pytest.approx(truth, rel=1e-3)
    assert abs(float(naive.trace() ** 2 / naive.square().sum()) - truth) > 0.01 * truth


@pytest.mark.parametrize(("n", "d"), [(63, 100), (100, 63), (64, 64), (5, 40)])
def test_gram_and_covariance_routes_agree(n: int, d: int) -> None:
    x = tokens(n, d, mean=2.0)
    gram, eig = spectra.spectrum(x, "gram"), spectra.spectrum(x, "eig")
    assert len(gram.values) == len(eig.values) == d
    torch.testing.assert_close(gram.values, eig.values, rtol=1e-9, atol=1e-11)
    assert gram.spread == pytest.approx(eig.spread, rel=1e-9)
    moments = spectra.spectrum(Moments.of(x, dtype=torch.float64))
    torch.testing.assert_close(moments.values, eig.values, rtol=1e-9, atol=1e-11)
    assert moments.spread == pytest.approx(eig.spread, rel=1e-9)


def test_gram_agrees_in_float32_to_six_digits_with_few_tokens() -> None:
    x = tokens(256, 1024).float()
    gram, exact = spectra.spectrum(x, "gram"), spectra.spectrum(x.double(), "gram")
    for scalar in (spectra.spectral_entropy, spectra.participation_ratio, spectra.early_enrichment):
        assert scalar(gram.values) == pytest.approx(scalar(exact.values), rel=1e-6)


def test_participation_ratio_needs_no_eigenvalues() -> None:
    x = tokens(200, 48)
    assert spectra.spread(x).participation_ratio() == pytest.approx(
        spectra.participation_ratio(spectra.spectrum(x).values), rel=1e-10
    )


def test_moments_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="width"):
        Moments(4).update(torch.randn(3, 5))
    with pytest.raises(ValueError, match="widths"):
        Moments(4).merge(Moments(5))
    with pytest.raises(ValueError, match="Gram"):
        spectra.spectrum(Moments.of(torch.randn(9, 4)), "gram")


ONE_RANK = """
import sys
import torch, torch.distributed as dist
from nightlab.kernels.spectra import Moments
rank, meeting = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
x = 3 + torch.randn(90, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
mine = Moments(7, dtype=torch.float64)
mine.update(x[:20] if rank == 0 else x[20:])
mine.all_reduce()
whole = Moments.of(x, dtype=torch.float64)
assert mine.n == whole.n == 90
for name in ("mean", "m2", "third", "fourth"):
    torch.testing.assert_close(getattr(mine, name), getattr(whole, name), rtol=1e-9, atol=1e-9)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_data_parallel_moments_equal_those_of_one_process(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", ONE_RANK]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=120)
        assert rank.returncode == 0, errors.decode()


def test_blocked_and_plain_scatter_agree() -> None:
    x = tokens(70, 600, mean=4.0).float()
    blocked, plain = spectra.centered_syrk(x), spectra.reference.centered_syrk(x)
    torch.testing.assert_close(blocked.m2, plain.m2, rtol=1e-4, atol=1e-3)
    assert torch.equal(blocked.m2, blocked.m2.T)
    assert spectra.path(x) == "torch"


def test_a_float32_solver_that_returns_nan_for_dead_units_is_not_believed() -> None:
    generator = torch.Generator().manual_seed(3)
    low_rank = torch.randn(512, 3, generator=generator) @ torch.randn(3, 256, generator=generator)
    x = (low_rank - 3 + 0.3 * torch.randn(512, 256, generator=generator)).relu()
    x = x - x.mean(0)
    x[:, torch.rand(256, generator=generator) < 0.45] = 0
    found, exact = spectra.spectrum(x), spectra.spectrum(x.double())
    torch.testing.assert_close(found.values, exact.values, rtol=1e-4, atol=1e-6)
