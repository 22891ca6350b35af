"""``nightlab bench kernels spectra``: what spectra cost beside training and beside plain code.

Overhead is measured on the baseline program of ``byte_lm``, for each of its rungs: what the frozen
trainer's reports, on the way and at the end, add to the rung's budget of CPU time.
The plain implementation does what the formulas say: covariance in the width's dimension and all
its eigenvalues, before and after the activation. CPU time of one thread; medians of interleaved
repeats.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torch.nn import functional

from nightlab.evals import task
from nightlab.evals.tasks.byte_lm import program
from nightlab.kernels import spectra
from nightlab.kernels.spectra import Recorder, cadence
from nightlab.kernels.spectra.recorder import EVERY

WIDTHS = (256, 512, 1024)
PROBE_ROWS = 4
"""Sequences of a trainer's last report."""
FEW, MANY = 256, 4096
"""Tokens of a sampled spectrum, and of a whole batch."""


class Row(TypedDict):
    """One measurement; ``table`` says of what."""

    table: str
    """``overhead``, ``five metrics``, ``participation ratio``, ``scatter`` or ``accuracy``."""
    case: str
    ours: float
    """CPU milliseconds (``overhead``: of all reports), or for ``accuracy`` the estimate."""
    plain: float
    """The plain implementation's; for ``overhead`` the budget, for ``accuracy`` the truth."""
    ratio: float
    """plain / ours, or for ``overhead`` the share of training time, for ``accuracy`` the error."""
    difference: NotRequired[float]
    """Largest relative difference between the two implementations' numbers."""


class Claim(TypedDict):
    """One target of the project beside what was measured."""

    name: str
    target: float
    measured: float
    unit: str
    holds: bool


class Report(TypedDict):
    """What every benchmark of the project returns."""

    bench: str
    machine: str
    date: str
    settings: dict[str, object]
    rows: list[Row]
    claims: list[Claim]


def run(*, repeats: int = 9, say: Callable[[str], None] = lambda _: None) -> Report:
    """The whole benchmark on one thread; ``repeats`` of everything, about a CPU minute at 9."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = overheads(repeats * 4)
        for row in rows:
            say(f"{row['case']}: {100 * row['ratio']:.2f} % of training time")
        for width in WIDTHS:
            rows += [
                five_metrics(width, repeats),
                ratio_alone(width, repeats),
                scatter(width, repeats),
            ]
            say(f"D = {width}: {rows[-3]['ratio']:.1f} x cheaper than plain")
        rows += accuracy()
    finally:
        torch.set_num_threads(threads)
    return Report(
        bench="kernels spectra",
        machine=machine(),
        date=datetime.now(UTC).date().isoformat(),
        settings={
            "threads": 1,
            "repeats": repeats,
            "every": EVERY,
            "tokens": cadence.TOKENS,
            "clock": "CPU time",
        },
        rows=rows,
        claims=claims(rows),
    )


def overheads(repeats: int) -> list[Row]:
    """CPU time of a trial's reports on each rung, as a share of the rung's budget."""
    step, at_rest = _training()
    plain, watched, rest = _interleaved([lambda: step(False), lambda: step(True), at_rest], repeats)
    extra, usual = median(b - a for a, b in zip(plain, watched, strict=True)), median(plain)
    rows = []
    for rung in task.load("byte_lm").rungs:
        on_way = cadence.reports(int(1000 * rung.cpu_seconds / usual))
        ours, budget = on_way * extra + median(rest), 1000 * rung.cpu_seconds
        case = f"byte_lm {rung.name}, {rung.cpu_seconds:g} s: {on_way} + 1 reports"
        rows.append(Row(table="overhead", case=case, ours=ours, plain=budget, ratio=ours / budget))
    return rows


def _training() -> tuple[Callable[[bool], None], Callable[[], None]]:
    """A training step of the baseline of ``byte_lm`` (watched or not), and its last report."""
    torch.manual_seed(0)
    recipe = program.Recipe()
    model = program.Model(recipe)
    optimizer = program.make_optimizer(model, recipe)
    tokens = torch.randint(0, 256, (recipe.batch, recipe.context + 1))
    recorder = Recorder(model, tokens=cadence.TOKENS)

    def step(watched: bool) -> None:
        with recorder.watching(EVERY) if watched else nullcontext():
            logits = model(tokens[:, :-1])
        torch.autograd.backward(
            functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        )
        optimizer.step()
        optimizer.zero_grad()

    def at_rest() -> None:
        model.eval()
        with torch.no_grad(), recorder.watching(EVERY):
            model(tokens[:PROBE_ROWS, :-1])
        model.train()

    return step, at_rest


def five_metrics(width: int, repeats: int) -> Row:
    """SE, PR, corrected PR, EEE before and after, and JS, from the same few tokens."""
    pre, post = _pair(FEW, width)
    fast, slow = _interleaved([lambda: _ours(pre, post), lambda: _plain(pre, post)], repeats)
    return Row(
        table="five metrics",
        case=f"N={FEW} D={width}",
        ours=median(fast),
        plain=median(slow),
        ratio=median(slow) / median(fast),
        difference=_apart(_ours(pre, post), _plain(pre.double(), post.double())),
    )


def ratio_alone(width: int, repeats: int) -> Row:
    """The participation ratio of a whole batch, without and with eigenvalues."""
    pre, _ = _pair(MANY, width)
    calls: list[Callable[[], object]] = [
        lambda: spectra.spread(pre).participation_ratio(),
        lambda: _plain_metrics(_plain_eigenvalues(pre)),
    ]
    fast, slow = _interleaved(calls, max(3, repeats // 3))
    exact = _plain_metrics(_plain_eigenvalues(pre.double()))[1]
    return Row(
        table="participation ratio",
        case=f"N={MANY} D={width}",
        ours=median(fast),
        plain=median(slow),
        ratio=median(slow) / median(fast),
        difference=abs(spectra.spread(pre).participation_ratio() / exact - 1),
    )


def scatter(width: int, repeats: int) -> Row:
    """The centred scatter alone: by triangles of blocks, and as one product."""
    pre, _ = _pair(MANY, width)
    calls: list[Callable[[], object]] = [
        lambda: spectra.centered_syrk(pre),
        lambda: (pre - pre.mean(0)).T @ (pre - pre.mean(0)),
    ]
    fast, slow = _interleaved(calls, repeats)
    case, ours, plain = f"N={MANY} D={width}", median(fast), median(slow)
    return Row(table="scatter", case=case, ours=ours, plain=plain, ratio=plain / ours)


def accuracy(draws: int = 50) -> list[Row]:
    """Naive and corrected PR of 128 tokens against the truth, over many draws."""
    lam = torch.exp(-torch.arange(256, dtype=torch.float64) / 60)
    truth = spectra.participation_ratio(lam)
    found = []
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(128, 256, generator=generator, dtype=torch.float64) * lam.sqrt()
        found.append(spectra.spread(x))
    means = {
        "naive": sum(f.participation_ratio() for f in found) / draws,
        "corrected": sum(f.corrected_participation_ratio() for f in found) / draws,
    }
    return [
        Row(
            table="accuracy",
            case=f"{name}, N=128 D=256",
            ours=value,
            plain=truth,
            ratio=value / truth - 1,
        )
        for name, value in means.items()
    ]


def claims(rows: Sequence[Row]) -> list[Claim]:
    """The targets beside the measured values."""
    by_case = {(row["table"], row["case"]): row for row in rows}
    share = 100 * max(row["ratio"] for row in rows if row["table"] == "overhead")
    wide = by_case["five metrics", f"N={FEW} D=1024"]
    naive = 100 * abs(by_case["accuracy", "naive, N=128 D=256"]["ratio"])
    corrected = 100 * abs(by_case["accuracy", "corrected, N=128 D=256"]["ratio"])
    apart = max(row.get("difference", 0.0) for row in rows)
    return [
        _claim("overhead on byte_lm's dearest rung", 1.0, share, "% of CPU time", share <= 1),
        _claim("cheaper than plain at D = 1024", 5.0, wide["ratio"], "x", wide["ratio"] >= 5),
        _claim("corrected PR off the truth", 2.0, corrected, "%", corrected <= 2),
        _claim("naive PR off the truth (for comparison)", 30.0, naive, "%", naive > 30),
        _claim("numbers equal the plain float64 ones", 1e-4, apart, "relative", apart <= 1e-4),
    ]


def machine() -> str:
    """The machine in words."""
    model = platform.processor() or "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return f"{os.cpu_count()} cores, {model}, CPU only"


def _claim(name: str, target: float, measured: float, unit: str, holds: bool) -> Claim:
    return Claim(name=name, target=target, measured=measured, unit=unit, holds=holds)


def _pair(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Activations with a decaying spectrum, before and after a GELU."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(d, d, generator=generator) * torch.exp(-torch.arange(d) / (d / 8))
    pre = torch.randn(n, d, generator=generator) @ mixed.T / d**0.5 * 4
    return pre, functional.gelu(pre)


def _ours(pre: Tensor, post: Tensor) -> list[float]:
    before, after = spectra.spectrum(pre), spectra.spectrum(post)
    numbers = [spectra.divergence(before.values, after.values)]
    for found in (before, after):
        numbers += [
            spectra.spectral_entropy(found.values),
            spectra.participation_ratio(found.values),
            spectra.early_enrichment(found.values),
            found.spread.corrected_participation_ratio(),
        ]
    return [numbers[0], *numbers[1:4], *numbers[5:8]]


def _plain(pre: Tensor, post: Tensor) -> list[float]:
    before, after = _plain_eigenvalues(pre), _plain_eigenvalues(post)
    p, q = before / before.sum(), after / after.sum()
    mid = (p + q) / 2
    js = (
        p * ((p + 1e-30) / mid.clamp_min(1e-30)).log()
        + q * ((q + 1e-30) / mid.clamp_min(1e-30)).log()
    ).sum() / 2
    return [float(js), *_plain_metrics(before), *_plain_metrics(after)]


def _plain_eigenvalues(x_ND: Tensor) -> Tensor:
    y_ND = x_ND - x_ND.mean(0)
    covariance = y_ND.T @ y_ND / (len(x_ND) - 1)
    values: Tensor = torch.linalg.eigvalsh(covariance).flip(0).clamp_min(0)
    return values


def _plain_metrics(lam: Tensor) -> list[float]:
    p, d = lam / lam.sum(), len(lam)
    entropy = -(p * p.clamp_min(1e-30).log()).sum()
    rank = torch.arange(1, d + 1, dtype=p.dtype)
    eee = 2 / d * (p.cumsum(0) - rank / d).sum()
    return [float(entropy), float(lam.sum() ** 2 / lam.square().sum()), float(eee)]


def _apart(a: Sequence[float], b: Sequence[float]) -> float:
    return max(abs(x - y) / max(abs(y), 1e-3) for x, y in zip(a, b, strict=True))


def _interleaved(calls: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """CPU milliseconds of each call, taken in turn so that a busy spell hits all alike."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(repeats):
        for call, kept in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            kept.append(1000 * (time.process_time() - start))
    return times
