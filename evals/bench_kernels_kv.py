"""``nightlab bench kernels kv``: what cache eviction keeps of recall, and what it costs.

Quality: tiny trained models answer recall prompts on their decode path after one eviction, at
budgets of 6.25 to 50 % of the prompt, with the question unseen or seen at eviction, beside a
control on which SnapKV should be near the oracle. Cost: eviction time against prefill time, and
memory as the operating system sees it.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

import torch

from nightlab.evals.bench_kernels_kv_cost import Cost, resident, timings
from nightlab.evals.bench_kernels_kv_quality import (
    CASES,
    Answers,
    Scale,
    interval,
    measure,
    paired,
    subjects,
)
from nightlab.kernels.kv import POLICIES, read_prompt

COST_TOKENS = (128, 1024)
MEMORY_SHARES = (0.5, 0.125)
SHARE = 0.125
"""The budget the claims are made at."""
HOP, CONTROL = "multi-hop, unseen", "one-hop control"


class Row(TypedDict):
    """One point: ``table`` says which of the fields below it are filled."""

    table: str
    """``quality``, ``cost`` or ``memory``."""
    case: str
    """The recall case; for cost, the prompt length."""
    policy: str
    budget: float
    """Share of the prompt's rows that stay."""
    value: float
    """Accuracy (quality), CPU milliseconds of eviction (cost), bytes against full (memory)."""
    low: float
    high: float
    """95 % bootstrap interval of an accuracy; for cost the least and the median repeat."""
    by_seed: list[float]
    stored: float
    """Bytes stored against the full cache (quality); eviction time against prefill time (cost)."""
    mass: float
    """Share of the true response's attention on kept rows (quality)."""


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


@dataclass(frozen=True)
class Found:
    """Everything that was measured, before it becomes rows and claims."""

    answers: Mapping[tuple[str, str, float], Answers]
    costs: Mapping[int, Mapping[str, Cost]]
    memory: Mapping[float, float]
    identical: bool
    """Whether prompt logits and cache had the same bits with the module on and off."""


def run(
    scale: Scale | None = None,
    *,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """The whole benchmark on one thread.

    ``folder`` keeps the trained models and modules, and is where they are found again; without
    one everything is trained afresh.
    """
    scale = scale or Scale()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.process_time()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            found = _find(scale, folder or Path(scratch), say)
    finally:
        torch.set_num_threads(threads)
    settings: dict[str, object] = {
        **{k: v for k, v in asdict(scale).items() if k not in ("setup", "module")},
        "module": asdict(scale.module),
        "setup": {k: v for k, v in asdict(scale.setup).items() if k not in ("module", "seed")},
        "definitions": {name: entry.definition for name, entry in POLICIES.items()},
        "interval": "95 % bootstrap over prompts within seeds",
        "cpu_seconds": round(time.process_time() - started),
        "threads": 1,
    }
    return Report(
        bench="kernels kv",
        machine=machine(),
        date=datetime.now(UTC).date().isoformat(),
        settings=settings,
        rows=rows(found),
        claims=claims(found),
    )


def machine() -> str:
    """The machine in words."""
    model = platform.processor() or "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return f"{os.cpu_count()} cores, {model}, CPU only"


def _find(scale: Scale, folder: Path, say: Callable[[str], None]) -> Found:
    folder.mkdir(parents=True, exist_ok=True)
    full = resident(1.0)
    memory = {share: resident(share) / full for share in MEMORY_SHARES}
    say("memory measured")
    answers = measure(scale, folder, say)
    model, module = subjects(scale, scale.seeds[0], folder, say)
    costs = {
        tokens: timings(model, module, scale.setup, tokens, repeats=scale.repeats)
        for tokens in COST_TOKENS
    }
    say("costs measured")
    tokens = torch.randint(0, 64, (2, scale.length), generator=torch.Generator().manual_seed(0))
    plain, looked = read_prompt(model, tokens), read_prompt(model, tokens)
    module.look(model, looked.cache)
    same = [torch.equal(plain.logits, looked.logits)]
    for layer in range(plain.cache.layers):
        pairs = zip(plain.cache.dense(layer), looked.cache.dense(layer), strict=True)
        same += [torch.equal(a, b) for a, b in pairs]
    return Found(answers, costs, memory, all(same))


def rows(found: Found) -> list[Row]:
    """One row per point measured."""
    out = []
    for (case, name, share), got in found.answers.items():
        low, high = interval(got.right)
        by_seed = [float(x) for x in got.right.mean(axis=1)]
        out.append(_row("quality", case, name, share, got.accuracy, by_seed, got.stored, got.mass))
        out[-1]["low"], out[-1]["high"] = low, high
    for tokens, costs in found.costs.items():
        for name, cost in costs.items():
            ratio = cost.evict_ms / cost.prefill_ms
            out.append(_row("cost", str(tokens), name, SHARE, cost.evict_ms, [], ratio, 0.0))
            out[-1]["high"] = cost.evict_median_ms
    for share, ratio in found.memory.items():
        out.append(_row("memory", "resident set", "ragged heads", share, ratio, [], ratio, 0.0))
    return out


def _row(
    table: str,
    case: str,
    name: str,
    budget: float,
    value: float,
    by_seed: list[float],
    stored: float,
    mass: float,
) -> Row:
    return Row(
        table=table,
        case=case,
        policy=name,
        budget=budget,
        value=value,
        low=value,
        high=value,
        by_seed=by_seed,
        stored=stored,
        mass=mass,
    )


def claims(found: Found) -> list[Claim]:
    """The issue's targets, read at 12.5 %."""
    out = []
    for share, ratio in found.memory.items():
        off = abs(ratio / share - 1)
        out.append(
            _claim(f"memory follows a {share:.1%} budget", 0.1, off, "relative error", off <= 0.1)
        )
    for case in (HOP, "multi-hop, seen"):
        out += _above(found, case)
        out.append(_near_draft(found, case))
    for tokens, costs in found.costs.items():
        ratio = costs["lookahead"].evict_ms / costs["laq"].evict_ms
        out.append(
            _claim(
                f"eviction time against LAQ at {tokens} tokens", 0.2, ratio, "ratio", ratio < 0.2
            )
        )
    mean, _, high = paired(found.answers, CONTROL, "lookahead", "snapkv", SHARE)
    out.append(
        _claim("control: not below SnapKV beyond noise", 0.0, 100 * mean, "points", high >= 0)
    )
    same = float(found.identical)
    out.append(
        _claim("prompt bits are those without the module", 1.0, same, "true", found.identical)
    )
    return out


def _above(found: Found, case: str) -> list[Claim]:
    """Lower end of ours above the upper end of each rival's interval."""
    ours = found.answers[case, "lookahead", SHARE].right
    out = []
    for rival in ("snapkv", "pyramidkv", "h2o", "streaming"):
        theirs = found.answers[case, rival, SHARE].right
        gap = 100 * (interval(ours)[0] - interval(theirs)[1])
        out.append(_claim(f"{case}: interval above {rival}'s", 0.0, gap, "points of gap", gap > 0))
    return out


def _near_draft(found: Found, case: str) -> Claim:
    mean, _, _ = paired(found.answers, case, "lookahead", "laq", SHARE)
    return _claim(f"{case}: within 3 points of LAQ", -3.0, 100 * mean, "points", mean >= -0.03)


def _claim(name: str, target: float, measured: float, unit: str, holds: bool) -> Claim:
    return Claim(name=name, target=target, measured=measured, unit=unit, holds=holds)


def plot(report: Report, path: Path) -> None:
    """Accuracy against stored bytes, a panel a case, and eviction time against prefill; a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(15, 8.5), layout="constrained")
    colours = pyplot.get_cmap("tab20").colors  # type: ignore[attr-defined]
    names = list(dict.fromkeys(r["policy"] for r in report["rows"] if r["table"] == "quality"))
    for axis, case in zip(axes.flat, CASES, strict=False):
        for i, name in enumerate(names):
            at = [
                r
                for r in report["rows"]
                if (r["table"], r["case"], r["policy"]) == ("quality", case.name, name)
            ]
            value = [100 * r["value"] for r in at]
            error = [
                [100 * (r["value"] - r["low"]) for r in at],
                [100 * (r["high"] - r["value"]) for r in at],
            ]
            ours = name.startswith("lookahead")
            axis.errorbar(
                [100 * r["stored"] for r in at],
                value,
                yerr=error,
                label=name,
                color="black" if name == "oracle" else colours[i % 20],
                marker="o" if ours else ".",
                linewidth=2.2 if ours else 1.0,
                capsize=2,
            )
        axis.set(
            title=case.name, xlabel="stored bytes, % of full", ylabel="recall, %", ylim=(-3, 103)
        )
        axis.set_xscale("log")
        axis.set_xticks([6.25, 12.5, 25, 50, 100], ["6.25", "12.5", "25", "50", "100"])
        axis.minorticks_off()
    _cost_panel(axes.flat[5], report)
    handles = axes.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=7)
    figure.suptitle(f"KV-cache eviction: {report['machine']}, {report['date']}")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _cost_panel(axis: object, report: Report) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
    longest = str(COST_TOKENS[-1])
    at = [r for r in report["rows"] if r["table"] == "cost" and r["case"] == longest]
    at.sort(key=lambda r: r["stored"])
    axis.barh([r["policy"] for r in at], [100 * r["stored"] for r in at])
    axis.set(title=f"eviction time at {longest} tokens", xlabel="% of prefill time", xscale="log")
    axis.set_xticks([1, 3, 10, 30, 100, 300], ["1", "3", "10", "30", "100", "300"])
    axis.minorticks_off()
