"""The spectral scalars against closed forms, analytic spectra and their invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nightlab.kernels import spectra
from nightlab.kernels.spectra import differentiable

LAM = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


def normal(n: int, lam_D: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, len(lam_D), generator=generator, dtype=torch.float64) * lam_D.sqrt()


@given(LAM)
def test_scalars_stay_in_their_ranges(lam: Tensor) -> None:
    d = len(lam)
    entropy, ratio = spectra.spectral_entropy(lam), spectra.participation_ratio(lam)
    assert 0 <= entropy <= math.log(d) + 1e-12
    assert 1 - 1e-12 <= ratio <= d + 1e-9
    assert math.exp(entropy) >= ratio * (1 - 1e-12)
    assert -1e-12 <= spectra.early_enrichment(lam) <= 1 - 1 / d + 1e-12


@given(LAM, LAM)
def test_divergence_is_symmetric_bounded_and_zero_for_proportional_spectra(
    a: Tensor, b: Tensor
) -> None:
    assert spectra.divergence(a, b) == pytest.approx(spectra.divergence(b, a), abs=1e-12)
    assert 0 <= spectra.divergence(a, b) < math.log(2)
    assert spectra.divergence(a, 7.5 * a) == pytest.approx(0, abs=1e-12)
    padded = torch.nn.functional.pad(b, (0, 9))
    assert spectra.divergence(a, padded) == pytest.approx(spectra.divergence(a, b), abs=1e-12)


@given(LAM)
def test_early_enrichment_equals_its_definition_by_cumulative_sums(lam: Tensor) -> None:
    d = len(lam)
    cumulative = spectra.shares(lam).cumsum(0)
    uniform = torch.arange(1, d + 1, dtype=torch.float64) / d
    expected = 2 / d * float((cumulative - uniform).sum())
    assert spectra.early_enrichment(lam) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("k", "d"), [(1, 64), (5, 64), (64, 64), (1, 1024)])
def test_k_equal_eigenvalues_have_the_closed_forms(k: int, d: int) -> None:
    lam = torch.cat([torch.ones(k), torch.zeros(d - k)])
    assert spectra.spectral_entropy(lam) == pytest.approx(math.log(k), abs=1e-12)
    assert spectra.participation_ratio(lam) == pytest.approx(k, rel=1e-12)
    assert spectra.early_enrichment(lam) == pytest.approx(1 - k / d, abs=1e-12)


@pytest.mark.parametrize(("d", "js"), [(64, 0.6528), (1024, 0.6893), (16384, 0.6928)])
def test_rank_one_against_uniform_comes_near_ln_2_and_never_reaches_it(d: int, js: float) -> None:
    rank_one, uniform = torch.zeros(d).index_fill(0, torch.tensor(0), 1.0), torch.ones(d)
    assert spectra.divergence(rank_one, uniform) == pytest.approx(js, abs=1e-4)


@pytest.mark.parametrize("r", [0.5, 0.9, 0.99])
def test_a_geometric_spectrum_has_its_closed_form_participation_ratio(r: float) -> None:
    d = 128
    lam = r ** torch.arange(d, dtype=torch.float64)
    expected = ((1 - r**d) / (1 - r)) ** 2 * (1 - r**2) / (1 - r ** (2 * d))
    assert spectra.participation_ratio(lam) == pytest.approx(expected, rel=1e-10)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([1e-6, 1e-4, 1e-3, 1.0, 1e3, 1e6]), st.integers(0, 99))
def test_scale_shift_rotation_and_order_of_tokens_change_nothing(scale: float, seed: int) -> None:
    x = normal(48, torch.linspace(1, 0.01, 20, dtype=torch.float64), seed)
    rotation = torch.linalg.qr(normal(20, torch.ones(20, dtype=torch.float64), seed + 1)).Q
    order = torch.randperm(48, generator=torch.Generator().manual_seed(seed))
    before = spectra.spectrum(x)
    after = spectra.spectrum((scale * (x @ rotation + 3))[order])
    for scalar in (
        spectra.spectral_entropy,
        spectra.participation_ratio,
        spectra.early_enrichment,
    ):
        assert scalar(after.values) == pytest.approx(scalar(before.values), rel=1e-7)
    assert after.spread.corrected_participation_ratio() == pytest.approx(
        before.spread.corrected_participation_ratio(), rel=1e-7
    )


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e4, 1e6])
def test_float32_activations_of_any_scale_give_the_same_scalars(scale: float) -> None:
    x = normal(256, torch.linspace(1, 0.01, 64, dtype=torch.float64), 3).float()
    near, far = spectra.spectrum(x), spectra.spectrum(x * scale)
    assert spectra.participation_ratio(far.values) == pytest.approx(
        spectra.participation_ratio(near.values), rel=1e-5
    )
    moments = spectra.Moments.of(x * scale)
    assert spectra.spread(moments).corrected_participation_ratio() == pytest.approx(
        near.spread.corrected_participation_ratio(), rel=1e-4
    )


def test_rescaling_single_columns_does_change_the_participation_ratio() -> None:
    x = normal(200, torch.ones(16, dtype=torch.float64), 0)
    y = x * torch.linspace(1, 10, 16, dtype=torch.float64)
    assert spectra.spread(y).participation_ratio() < 0.8 * spectra.spread(x).participation_ratio()


@pytest.mark.parametrize(
    ("n", "pr", "se", "eee"),
    [(64, 50.6, 4.020, 0.825), (256, 128.0, 5.044, 0.541), (1024, 204.7, 5.420, 0.284)],
)
def test_isotropic_noise_shows_the_finite_sample_bias_of_the_formulas(
    n: int, pr: float, se: float, eee: float
) -> None:
    found = [spectra.spectrum(normal(n, torch.ones(256, dtype=torch.float64), s)) for s in range(4)]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    assert mean([spectra.participation_ratio(f.values) for f in found]) == pytest.approx(
        pr, rel=0.012
    )
    assert mean([spectra.spectral_entropy(f.values) for f in found]) == pytest.approx(se, rel=0.01)
    assert mean([spectra.early_enrichment(f.values) for f in found]) == pytest.approx(eee, rel=0.01)


def test_the_corrected_ratio_is_unbiased_where_the_naive_one_is_a_third_too_low() -> None:
    lam = torch.exp(-torch.arange(256, dtype=torch.float64) / 60)
    truth = spectra.participation_ratio(lam)
    draws = [spectra.spread(normal(128, lam, seed)) for seed in range(200)]
    naive = sum(d.participation_ratio() for d in draws) / 200
    corrected = sum(d.corrected_participation_ratio() for d in draws) / 200
    assert truth > 100
    assert naive < 0.7 * truth
    assert corrected == pytest.approx(truth, rel=0.02)


@pytest.mark.parametrize("rho", [0.1, 0.5])
def test_relu_of_correlated_gaussians_has_its_closed_form_spectrum(rho: float) -> None:
    d, n = 128, 40_000
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(n, 1, generator=generator)
    pre = math.sqrt(rho) * shared + math.sqrt(1 - rho) * torch.randn(n, d, generator=generator)
    v = 0.5 - 1 / (2 * math.pi)
    c = math.sqrt(1 - rho**2) + rho * (math.pi - math.acos(rho)) - 1
    c /= 2 * math.pi
    expected = torch.tensor([v + (d - 1) * c] + [v - c] * (d - 1), dtype=torch.float64)
    post = spectra.spectrum(pre.relu())
    assert spectra.participation_ratio(post.values) == pytest.approx(
        spectra.participation_ratio(expected), rel=0.03
    )
    gain = spectra.participation_ratio(post.values) / spectra.spread(pre).participation_ratio()
    assert 1 < gain < (4 * v) ** 2


def test_a_linear_activation_changes_nothing() -> None:
    pre = spectra.spectrum(normal(300, torch.linspace(1, 0.1, 40, dtype=torch.float64), 0))
    post = spectra.spectrum(2.5 * normal(300, torch.linspace(1, 0.1, 40, dtype=torch.float64), 0))
    assert spectra.divergence(pre.values, post.values) == pytest.approx(0, abs=1e-12)
    assert post.spread.participation_ratio() == pytest.approx(pre.spread.participation_ratio())


def test_constant_activations_give_nan_and_no_crash() -> None:
    found = spectra.spectrum(torch.full((32, 8), 0.1))
    assert math.isnan(spectra.participation_ratio(found.values))
    assert math.isnan(spectra.spectral_entropy(found.values))
    assert math.isnan(spectra.early_enrichment(found.values))
    assert math.isnan(spectra.divergence(found.values, torch.ones(8)))
    assert math.isnan(found.spread.corrected_participation_ratio())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_activations_that_are_not_finite_are_refused(bad: float) -> None:
    x = torch.randn(32, 8)
    x[3, 2] = bad
    with pytest.raises(ValueError, match="not finite"):
        spectra.spectrum(x)
    with pytest.raises(ValueError, match="not finite"):
        spectra.spread(spectra.Moments.of(x))


def test_too_few_tokens_and_broken_spectra_are_refused() -> None:
    with pytest.raises(ValueError, match="4 tokens"):
        spectra.spread(torch.randn(3, 8)).corrected_participation_ratio()
    with pytest.raises(ValueError, match="2 tokens"):
        spectra.spectrum(torch.randn(1, 8))
    with pytest.raises(ValueError, match="negative"):
        spectra.participation_ratio(torch.tensor([1.0, -0.5]))


@pytest.mark.parametrize("name", ["participation_ratio", "spectral_entropy", "early_enrichment"])
def test_gradients_match_finite_differences_and_values_the_definitions(name: str) -> None:
    x = normal(12, torch.linspace(1, 0.2, 6, dtype=torch.float64), 5).requires_grad_()
    scalar = getattr(differentiable, name)
    assert torch.autograd.gradcheck(lambda t: scalar(differentiable.covariance(t)), x)
    value = scalar(differentiable.covariance(x)).item()
    assert value == pytest.approx(getattr(spectra, name)(spectra.spectrum(x).values), rel=1e-9)
