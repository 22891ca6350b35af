"""``nightlab bench kernels index_cache``: ms a layer for dense, all-F and shared sparse attention.

Every variant is a real group of layers run through one IndexCache: ``F`` (all-F), ``FS`` (1/2),
``FSSS`` (1/4), ``FSSSSSSS`` (1/8), and ``S`` (the index given). Variants take turns within each
repeat, so that a busy machine slows them alike; a ratio is the median of the repeats' ratios.
Indexer projections are inputs here: the cost model of the paper counts scoring and attention.
"""

import gc
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypedDict

import torch
from torch import Tensor

from nightlab.kernels.index_cache import (
    BlockShape,
    IndexCache,
    IndexPattern,
    IndexSet,
    Projections,
    flops_ratio,
    predicted_speedup,
    select_blocks,
    select_tokens,
    sparse_attention,
    sparse_attention_decode,
)

HEADS, WIDTH, INDEX_HEADS, INDEX_WIDTH = 8, 64, 8, 32
GROUPS = {"all-F": "F", "1/2": "FS", "1/4": "FSSS", "1/8": "FSSSSSSS"}


Clock = Literal["wall", "cpu"]


class Row(TypedDict):
    """One point of the benchmark."""

    mode: str
    """What is attended over, and whether forward, forward+backward or decode."""
    tokens: int
    variant: str
    ms: float
    """Median milliseconds a layer."""
    vs_dense: float
    """Median over repeats of dense / this; above 1 is faster."""
    vs_all_f: float
    """Median over repeats of all-F / this."""
    predicted_vs_all_f: float | None
    """(1 + r) / (1 + rho r), r from this T's measured all-F and S; None where it does not apply."""


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
    settings: dict[str, int | str | list[int]]
    rows: list[Row]
    claims: list[Claim]


def machine(device: str) -> str:
    """The machine in words, such as ``2 cores, AMD EPYC, CPU only``."""
    model = platform.processor() or "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    gpu = torch.cuda.get_device_name() if device == "cuda" else "CPU only"
    return f"{os.cpu_count()} cores, {model}, {gpu}"


class Case:
    """Inputs of one mode at one length, and the variants as functions to time."""

    def __init__(self, tokens: int, topk: int, block: bool, backward: bool, device: str) -> None:
        kv = HEADS if block else 1
        self.tokens, self.topk, self.block, self.backward = tokens, topk, block, backward
        self.q = torch.randn(1, HEADS, tokens, WIDTH, device=device, requires_grad=backward)
        self.k = torch.randn(1, kv, tokens, WIDTH, device=device, requires_grad=backward)
        self.v = torch.randn(1, kv, tokens, WIDTH, device=device, requires_grad=backward)
        self.made = Projections(
            torch.randn(1, tokens, INDEX_HEADS, INDEX_WIDTH, device=device),
            torch.randn(1, tokens, INDEX_WIDTH, device=device),
            torch.randn(1, tokens, INDEX_HEADS, device=device),
        )
        self.given = self.select()

    def select(self) -> IndexSet:
        """A fresh index set: what an F layer pays for."""
        if self.block:
            return select_blocks(self.made, self.topk, shape=BlockShape())
        return select_tokens(self.made, self.topk)

    def finish(self, out: Tensor) -> None:
        if self.backward:
            torch.autograd.backward(out, torch.ones_like(out))
            self.q.grad = self.k.grad = self.v.grad = None

    def dense(self) -> None:
        out = torch.nn.functional.scaled_dot_product_attention(
            self.q, self.k.expand_as(self.q), self.v.expand_as(self.q), is_causal=True
        )
        self.finish(out)

    def shared(self) -> None:
        """One S layer: the set, and what it has derived, are there already."""
        self.finish(sparse_attention(self.q, self.k, self.v, self.given).out)

    def group(self, letters: str) -> None:
        """One F layer and the S layers it serves."""
        cache = IndexCache(IndexPattern(letters))
        for layer in range(len(letters)):
            if cache.pattern.is_full(layer):
                cache.publish(layer, self.select())
            index = cache.fetch(layer)
            self.finish(sparse_attention(self.q, self.k, self.v, index).out)

    def variants(self) -> dict[str, tuple[int, Callable[[], None]]]:
        """Variant to layers run and function."""
        found: dict[str, tuple[int, Callable[[], None]]] = {
            "dense": (1, self.dense),
            "S": (1, self.shared),
        }
        for name, letters in GROUPS.items():
            found[name] = (len(letters), lambda letters=letters: self.group(letters))  # type: ignore[misc]
        return found


class DecodeCase(Case):
    """One new token against a cache of ``tokens`` keys."""

    def __init__(self, tokens: int, topk: int, block: bool, device: str) -> None:
        super().__init__(tokens, topk, False, False, device)
        if block:
            self.k, self.v = (torch.randn_like(self.q) for _ in range(2))
        self.q = self.q[:, :, -1:].contiguous()
        self.made = Projections(self.made.q[:, -1:], self.made.k, self.made.w[:, -1:])
        self.given = self.select()

    def select(self) -> IndexSet:
        return select_tokens(self.made, self.topk, self.tokens - self.made.q.shape[1])

    def dense(self) -> None:
        gqa = self.k.shape[1] != HEADS
        torch.nn.functional.scaled_dot_product_attention(self.q, self.k, self.v, enable_gqa=gqa)

    def shared(self) -> None:
        sparse_attention_decode(self.q, self.k, self.v, self.given)

    def group(self, letters: str) -> None:
        cache = IndexCache(IndexPattern(letters))
        for layer in range(len(letters)):
            if cache.pattern.is_full(layer):
                cache.publish(layer, self.select())
            sparse_attention_decode(self.q, self.k, self.v, cache.fetch(layer))


def timed(run: Callable[[], None], device: str, inner: int, clock: Clock) -> float:
    """Milliseconds of one call, over ``inner`` calls in a row."""
    now = time.perf_counter if clock == "wall" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    start = now()
    for _ in range(inner):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (now() - start) * 1e3 / inner


def measure(case: Case, mode: str, repeats: int, device: str, clock: Clock) -> list[Row]:
    """Rows of all variants; they take turns, after one untimed turn."""
    inner = 20 if isinstance(case, DecodeCase) else 1
    variants = case.variants()
    samples: dict[str, list[float]] = {name: [] for name in variants}
    with torch.set_grad_enabled(case.backward):
        for repeat in range(repeats + 1):
            for name, (layers, run) in variants.items():
                gc.collect()
                taken = timed(run, device, inner, clock) / layers
                if repeat:
                    samples[name].append(taken)
    r = statistics.median(
        all_f / s - 1 for all_f, s in zip(samples["all-F"], samples["S"], strict=True)
    )
    rows = []
    for name in variants:
        retention = 1 / len(GROUPS[name]) if name in GROUPS else None
        rows.append(
            Row(
                mode=mode, tokens=case.tokens, variant=name, ms=statistics.median(samples[name]),
                vs_dense=ratio(samples["dense"], samples[name]),
                vs_all_f=ratio(samples["all-F"], samples[name]),
                predicted_vs_all_f=None if retention is None else predicted_speedup(r, retention),
            )
        )  # fmt: skip
    return rows


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median of the repeats' own ratios."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


TOKEN, BLOCK = "token shared KV forward", "block MHA forward"
TOKEN_BOTH, BLOCK_BOTH = "token shared KV forward+backward", "block MHA forward+backward"
DECODE, DECODE_MHA = "decode shared KV", "decode MHA"
MODES = (TOKEN, BLOCK, BLOCK_BOTH, TOKEN_BOTH, DECODE, DECODE_MHA)


def bench(
    tokens: Sequence[int] = (1024, 2048, 4096, 8192),
    context: int = 32768,
    topk: int = 256,
    repeats: int = 5,
    threads: int = 2,
    device: str = "cpu",
    clock: Clock = "wall",
    modes: Sequence[str] = MODES,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measure every mode over ``tokens`` (decode at ``context`` alone) on ``threads`` threads.

    ``clock="cpu"`` counts CPU time, for one thread on a machine that others use meanwhile.
    ``say`` hears what is done after each point. ValueError for an unknown mode, and for CPU time
    on a GPU or of more than one thread, which would count waiting.
    """
    if clock == "cpu" and (device != "cpu" or threads != 1):
        raise ValueError("CPU time is a measure for one thread on a CPU")
    if unknown := set(modes) - set(MODES):
        raise ValueError(f"no mode {', '.join(sorted(unknown))}; there are {', '.join(MODES)}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rows: list[Row] = []
    points = [(mode, length) for mode in modes
              for length in ([context] if "decode" in mode else tokens)]  # fmt: skip
    # Shares of the work: dense attention costs the square of the length, twice more with backward.
    cost = [0.1 if "decode" in mode else (length / 1024) ** 1.7 * (3 if "back" in mode else 1)
            for mode, length in points]  # fmt: skip
    start = time.perf_counter()
    for done, (mode, length) in enumerate(points, 1):
        block = "MHA" in mode
        case = (
            DecodeCase(length, topk, block, device)
            if "decode" in mode
            else Case(length, topk, block, "backward" in mode, device)
        )
        rows += measure(case, mode, repeats, device, clock)
        left = (time.perf_counter() - start) * sum(cost[done:]) / sum(cost[:done])
        say(f"{done}/{len(points)}  {mode}, {length} tokens  about {left:.0f} s left")
    torch.set_num_threads(before)
    return Report(
        bench="kernels index_cache",
        machine=machine(device),
        date=datetime.now(UTC).date().isoformat(),
        settings={
            "topk": topk, "heads": HEADS, "width": WIDTH, "index_heads": INDEX_HEADS,
            "index_width": INDEX_WIDTH, "tokens": list(tokens), "context": context,
            "repeats": repeats, "clock": clock, "threads": threads, "device": device,
            "dtype": "float32",
        },
        rows=rows,
        claims=claims(rows),
    )  # fmt: skip


def claims(rows: Sequence[Row]) -> list[Claim]:
    """The project's targets that the measured rows can answer."""
    at = {(row["mode"], row["tokens"], row["variant"]): row for row in rows}
    made: list[Claim] = []

    def claim(name: str, target: float, key: tuple[str, int, str], field: str) -> None:
        if key in at:
            measured = at[key]["vs_all_f"] if field == "vs_all_f" else at[key]["vs_dense"]
            made.append(
                Claim(name=name, target=target, measured=round(measured, 2), unit="x",
                      holds=measured >= target)
            )  # fmt: skip

    claim("T=8192 shared KV forward: 1/4 over all-F", 1.8, (TOKEN, 8192, "1/4"), "vs_all_f")
    claim("T=8192 shared KV forward: 1/4 over dense", 1.3, (TOKEN, 8192, "1/4"), "vs_dense")
    for length, target in ((2048, 2.0), (8192, 4.5)):
        key = (BLOCK_BOTH, length, "S")
        claim(f"T={length} block forward+backward over dense", target, key, "vs_dense")
    context = max((row["tokens"] for row in rows if "decode" in row["mode"]), default=0)
    for mode in (DECODE, DECODE_MHA):
        claim(f"{mode} at {context}: 1/4 over dense", 3.0, (mode, context, "1/4"), "vs_dense")
    ratios = [row["vs_all_f"] for row in rows if row["mode"] == TOKEN and row["variant"] == "1/4"]
    if len(ratios) > 1:
        smallest = min(b / a for a, b in itertools.pairwise(ratios))
        made.append(
            Claim(name="all-F / (1/4) rises with T: smallest step", target=1.0,
                  measured=round(smallest, 2), unit="x", holds=smallest > 1.0)
        )  # fmt: skip
    return made


def crossover(rows: Sequence[Row], mode: str, variant: str = "1/4") -> int | None:
    """The smallest measured T from which the variant beats dense attention at every longer T."""
    won: int | None = None
    found = [row for row in rows if row["mode"] == mode and row["variant"] == variant]
    for row in sorted(found, key=lambda row: -row["tokens"]):
        if row["vs_dense"] <= 1:
            break
        won = row["tokens"]
    return won


def text(report: Report) -> str:
    """The report as a table, the crossovers, and the claims."""
    lines = [f"{report['bench']}: {report['machine']}, {report['date']}", ""]
    lines.append(f"{'mode':33} {'T':>6} {'variant':8} {'ms/layer':>9} {'dense/':>7} {'all-F/':>7}"
                 f" {'model':>6} {'FLOPs':>6}")  # fmt: skip
    topk = report["settings"]["topk"]
    for row in report["rows"]:
        tail = ""
        if row["predicted_vs_all_f"] is not None and isinstance(topk, int):
            r = flops_ratio(row["tokens"], topk, HEADS, WIDTH, WIDTH, INDEX_HEADS, INDEX_WIDTH)
            by_flops = predicted_speedup(r, 1 / len(GROUPS[row["variant"]]))
            tail = f" {row['predicted_vs_all_f']:6.2f} {by_flops:6.2f}"
        lines.append(f"{row['mode']:33} {row['tokens']:6} {row['variant']:8} {row['ms']:9.2f} "
                     f"{row['vs_dense']:7.2f} {row['vs_all_f']:7.2f}{tail}")  # fmt: skip
    for mode in dict.fromkeys(row["mode"] for row in report["rows"]):
        if "decode" not in mode:
            where = crossover(report["rows"], mode)
            lines.append(f"crossover, {mode}, 1/4 over dense: {where or 'none measured'}")
    lines += [
        f"{'holds' if claim['holds'] else 'FAILS'}  {claim['name']}: "
        f"{claim['measured']}{claim['unit']} (target {claim['target']}{claim['unit']})"
        for claim in report["claims"]
    ]
    return "\n".join(lines)


def plot(report: Report, path: Path) -> None:
    """Milliseconds a layer over T for every mode, and in bars for decode, as a PNG."""
    from matplotlib.figure import Figure

    modes = list(dict.fromkeys(row["mode"] for row in report["rows"]))
    across = min(3, len(modes))
    down = -(-len(modes) // across)
    figure = Figure(figsize=(5.2 * across, 4 * down), layout="constrained")
    for place, mode in enumerate(modes, 1):
        axes = figure.add_subplot(down, across, place)
        rows = [row for row in report["rows"] if row["mode"] == mode]
        variants = list(dict.fromkeys(row["variant"] for row in rows))
        lengths = sorted({row["tokens"] for row in rows})
        if "decode" in mode:
            axes.bar(variants, [row["ms"] for row in rows])
            axes.set(title=f"{mode}, {lengths[0]:,} tokens", ylabel="ms a layer and token")
            continue
        for variant in variants:
            line = [(row["tokens"], row["ms"]) for row in rows if row["variant"] == variant]
            axes.loglog(*zip(*line, strict=True), marker="o", label=variant)
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.minorticks_off()
        axes.set(title=mode, xlabel="tokens", ylabel="ms a layer")
        axes.legend()
    settings = report["settings"]
    threads = f"{settings['threads']} thread{'s' if settings['threads'] != 1 else ''}"
    figure.suptitle(f"{report['machine']}, {threads}, {report['date']}")
    figure.savefig(path, dpi=120)
