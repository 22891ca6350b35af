"""The small science of spectra (E1-E8): what holds at small scale on a CPU, with intervals.

    python -m nightlab.evals.science_nerve results.json [--scale 1.0] [--keep FOLDER]

Some sixty runs of a 4-layer byte model, about fifteen CPU minutes at scale 1; ``scale`` shortens
every run, and what a folder keeps is not run again. Experiment by experiment: re-injection, GELU
against ReLU, norm-free models, AdamW against Muon, width, whether a spectrum predicts the loss,
penalties, and how a spectrum is forged.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nightlab.evals.nerve import trends
from nightlab.evals.nerve.ablation import ablate
from nightlab.evals.nerve.readings import Reading
from nightlab.evals.nerve.study import (
    ByteModel,
    Corpus,
    Setting,
    Trace,
    evaluate,
    keep,
    kept,
    measure,
    train,
)
from nightlab.kernels.spectra import Recorder

Result = dict[str, Any]
SEEDS = (0, 1, 2)
LOUD = 8.0
"""Standard deviation of the weights of forged units."""
RATES = {"adamw": (1e-3, 3e-3, 6e-3), "muon": (0.01, 0.03, 0.06)}


class Laboratory:
    """Runs settings once each and remembers their traces."""

    def __init__(self, scale: float, say: Callable[[str], None], folder: Path | None) -> None:
        self.corpus = Corpus.of_standard_library()
        self.folder = folder
        self.steps = max(50, round(300 * scale / 25) * 25)
        self.traces: dict[Setting, Trace] = {}
        self._say = say

    def run(self, **dials: Any) -> Trace:
        """The trace of one setting, trained at most once."""
        setting = Setting(steps=self.steps, **dials)
        if setting not in self.traces:
            trace = kept(setting, self.folder) if self.folder else None
            if trace is None:
                trace = train(setting, self.corpus)
                if self.folder:
                    keep(trace, self.folder)
            self.traces[setting] = trace
            flags = sorted({r.flag for r in trace.readings if r.flag})
            self._say(
                f"{len(self.traces):3d} {trace.loss:.4f} {trace.seconds:5.1f}s {dials} {flags}"
            )
        return self.traces[setting]

    def seeds(self, **dials: Any) -> list[Trace]:
        """The same dials at every seed."""
        return [self.run(seed=seed, **dials) for seed in SEEDS]


def layers(trace: Trace, place: str, metric: str, step: int | None = None) -> list[float]:
    """A metric by layer at a step (default: the last); PR as corrected PR over D."""
    step = max(trace.losses) if step is None else step
    found = [r for r in trace.readings if r.place == place and r.step == step]
    return [value(r, metric) for r in sorted(found, key=lambda r: r.layer)]


def value(reading: Reading, metric: str) -> float:
    """One number of a reading; ``pr_share`` is corrected PR over D, ``se_share`` SE over ln D.

    nan where the reading is flagged.
    """
    if reading.d == 0:
        return float("nan")
    if metric == "pr_share":
        return (reading.pr_corrected or np.nan) / reading.d
    if metric == "se_share":
        return (reading.entropy or np.nan) / float(np.log(reading.d))
    if metric == "log_gain":
        return float(np.log(reading.pr_gain_corrected or np.nan))
    number = getattr(reading, metric)
    return float("nan") if number is None else float(number)


def across(traces: Sequence[Trace], place: str, metric: str) -> Result:
    """Mean over layers and seeds with a 95 % interval over seeds, and the mean of each layer."""
    by_seed = [layers(trace, place, metric) for trace in traces]
    interval = trends.mean_interval([float(np.nanmean(each)) for each in by_seed])
    return {"mean": interval, "layers": np.nanmean(by_seed, axis=0).tolist()}


def losses(traces: Sequence[Trace]) -> trends.Interval:
    """Final validation loss, nats per byte, with a 95 % interval over seeds."""
    return trends.mean_interval([trace.loss for trace in traces])


def gap(ours: Sequence[Trace], theirs: Sequence[Trace]) -> trends.Interval:
    """Paired difference of final losses, ours less theirs."""
    pairs = zip(ours, theirs, strict=True)
    return trends.mean_interval([a.loss - b.loss for a, b in pairs])


def summary(traces: Sequence[Trace]) -> Result:
    """The five metrics of a set of seeds, and their loss."""
    return {
        "loss": losses(traces),
        "pr_pre": across(traces, "pre", "pr_share"),
        "pr_post": across(traces, "post", "pr_share"),
        "log_gain": across(traces, "post", "log_gain"),
        "eee_post": across(traces, "post", "eee"),
        "js": across(traces, "post", "js"),
    }


def reinjection(lab: Laboratory) -> Result:
    """E1: PR_post > PR_pre and EEE_post < EEE_pre in every layer of every seed?"""
    cells, wider, flatter = 0, 0, 0
    for trace in lab.seeds():
        gains = layers(trace, "post", "log_gain")
        drops = layers(trace, "post", "eee_diff")
        cells += len(gains)
        wider += sum(gain > 0 for gain in gains)
        flatter += sum(drop < 0 for drop in drops)
    return {"cells": cells, "wider": wider, "flatter": flatter, "gelu": summary(lab.seeds())}


def activations(lab: Laboratory) -> Result:
    """E2: GELU against ReLU, same seeds and data order."""
    gelu, relu = lab.seeds(), lab.seeds(activation="relu")
    return {"gelu": summary(gelu), "relu": summary(relu), "loss gelu - relu": gap(gelu, relu)}


def norm_free(lab: Laboratory) -> Result:
    """E3: without norms, does GELU show inertia in early layers and ReLU a large gain?"""
    arms = {
        "gelu": lab.seeds(norm=False),
        "relu": lab.seeds(norm=False, activation="relu"),
        "gelu with norm": lab.seeds(),
    }
    first = {
        name: {
            "eee_post": [layers(t, "post", "eee")[0] for t in traces],
            "js": [layers(t, "post", "js")[0] for t in traces],
            "gain": [float(np.exp(layers(t, "post", "log_gain")[0])) for t in traces],
        }
        for name, traces in arms.items()
    }
    return {
        **{name: summary(traces) for name, traces in arms.items()},
        "first layer": first,
        "loss gelu - relu": gap(arms["gelu"], arms["relu"]),
    }


def optimizers(lab: Laboratory) -> Result:
    """E4: AdamW against Muon, each at the best of three rates on a seed used for nothing else."""
    tuned: dict[str, float] = {}
    tried: Result = {}
    for name, rates in RATES.items():
        tried[name] = {rate: lab.run(optimizer=name, lr=rate, seed=100).loss for rate in rates}
        tuned[name] = min(tried[name], key=tried[name].__getitem__)
    arms = {name: lab.seeds(optimizer=name, lr=rate) for name, rate in tuned.items()}
    return {
        "rates": tried,
        **{name: summary(traces) for name, traces in arms.items()},
        "loss adamw - muon": gap(arms["adamw"], arms["muon"]),
    }


def widths(lab: Laboratory) -> Result:
    """E5: hidden width from one to eight times the stream's: does PR/D fall?"""
    return {f"{ratio}d": summary(lab.seeds(ratio=ratio)) for ratio in (1, 2, 4, 8)}


METRICS = (("pre", "pr_share"), ("post", "pr_share"), ("pre", "se_share"), ("post", "se_share"),
           ("post", "eee"), ("post", "js"), ("post", "log_gain"), ("out", "pr_share"),
           ("residual", "pr_share"))  # fmt: skip
"""Place and number of each metric that E6 tests as a predictor."""


CONFIGURATIONS = 24
"""Random settings of everything at once, each run once, that E6 compares."""


def prediction(lab: Laboratory) -> Result:
    """E6: within runs, raw against detrended; across runs at one early step, against final loss."""
    traces = _varied(lab)
    early = sorted(traces[0].losses)[len(traces[0].losses) // 3 - 1]
    final, then = [t.loss for t in traces], [t.losses[early] for t in traces]
    return {
        "runs": len(traces),
        "step": early,
        "early loss alone": trends.rank_correlation(then, final),
        "rows": [_prediction_row(traces, early, place, metric) for place, metric in METRICS],
        "ablation": _ablation(traces, early),
    }


def _prediction_row(traces: Sequence[Trace], early: int, place: str, metric: str) -> Result:
    final, then = [t.loss for t in traces], [t.losses[early] for t in traces]
    at_early = [float(np.nanmean(layers(t, place, metric, early))) for t in traces]
    inside = [_within(trace, place, metric) for trace in traces]
    detrended = [w.detrended for w in inside if np.isfinite(w.detrended)]
    return {
        "metric": f"{metric} {place}",
        "raw": float(np.nanmedian([w.raw for w in inside])),
        "detrended": trends.mean_interval(detrended),
        "step alone": float(np.nanmedian([w.step_alone for w in inside])),
        "across": trends.rank_correlation(at_early, final),
        "across given loss": trends.rank_correlation(at_early, final, then),
    }


def _within(trace: Trace, place: str, metric: str) -> trends.WithinRun:
    steps = sorted(trace.losses)
    curve = [float(np.nanmean(layers(trace, place, metric, step))) for step in steps]
    return trends.within_run(steps, curve, [trace.losses[step] for step in steps])


def _varied(lab: Laboratory) -> list[Trace]:
    rng = random.Random(1)
    found = []
    for seed in range(200, 200 + CONFIGURATIONS):
        optimizer = rng.choice(["adamw", "muon"])
        dials = {
            "activation": rng.choice(["gelu", "relu", "silu", "relu2"]),
            "norm": rng.random() < 0.7,
            "optimizer": optimizer,
            "lr": rng.choice(RATES[optimizer]),
            "weight_decay": rng.choice([0.0, 0.1, 0.3]),
            "depth": rng.choice([2, 3, 4]),
            "ratio": rng.choice([2, 4]),
        }
        found.append(lab.run(seed=seed, **dials))
    return found


def _ablation(traces: Sequence[Trace], early: int) -> Result:
    """Error in predicting the final loss from the early curve, without and with early spectra.

    The intervals are over ten draws of the folds, on the same runs, so they say how much the split
    matters and not how much another set of runs would.
    """
    final = np.array([trace.loss for trace in traces])
    curve = np.array([[t.losses[s] for s in sorted(t.losses) if s <= early] for t in traces])
    spectra = np.array(
        [[np.nanmean(layers(t, place, metric, early)) for place, metric in METRICS] for t in traces]
    )
    found = ablate(curve, spectra, final, range(len(traces)))
    return {
        **asdict(found),
        "table": {"curve": curve.tolist(), "spectra": spectra.tolist(), "final": final.tolist()},
    }


def penalties(lab: Laboratory) -> Result:
    """E7: does a push on PR_pre or EEE_post, by a penalty in the loss, improve the loss?"""
    plain = lab.seeds()
    arms = {name: lab.seeds(penalty=name) for name in ("pr_pre", "eee_post")}
    return {
        "none": summary(plain),
        **{name: summary(traces) for name, traces in arms.items()},
        **{f"loss {name} - none": gap(traces, plain) for name, traces in arms.items()},
    }


def forgery(lab: Laboratory) -> Result:
    """E8: hidden units that lead nowhere raise PR at equal loss; the output's PR stays."""
    trace = lab.run()
    held, probe = lab.corpus.held(96), lab.corpus.held(32, seed=8)
    model = trace.model or train(trace.setting, lab.corpus).model
    assert model is not None
    forged = _with_dead_units(model, trace.setting, next(lab.corpus.batches(9, 64))[:, :-1])
    rows = {}
    for name, each in (("honest", model), ("forged", forged)):
        recorder = Recorder(each, tokens=512, places=("post", "out"))
        found = measure(each, recorder, probe, 0)
        rows[name] = {
            "loss": evaluate(each, held),
            "pr_post": [r.pr_corrected for r in found if r.place == "post"],
            "pr_post_share": [value(r, "pr_share") for r in found if r.place == "post"],
            "pr_out": [r.pr_corrected for r in found if r.place == "out"],
        }
    return rows


@torch.no_grad()
def _with_dead_units(model: nn.Module, setting: Setting, known: Tensor) -> ByteModel:
    """The same function with twice the hidden units, the new ones leading nowhere.

    The forger whitens each feed-forward's input on ``known`` tokens and adds loud random units on
    it, so that they vary in every direction; their W_down columns are zero.
    """
    forged = ByteModel(replace(setting, ratio=2 * setting.ratio))
    state, extra = dict(model.state_dict()), setting.ratio * setting.width
    generator = torch.Generator().manual_seed(0)
    for layer, x in enumerate(_inputs(model, known)):
        lam, U = torch.linalg.eigh(torch.cov(x.T))
        whitening = U * lam.clamp_min(1e-6 * float(lam[-1])).rsqrt() @ U.T
        loud = (
            LOUD * torch.randn(extra, len(lam), generator=generator) @ whitening / len(lam) ** 0.5
        )
        at = f"blocks.{layer}."
        state[f"{at}up.weight"] = torch.cat([state[f"{at}up.weight"], loud])
        state[f"{at}up.bias"] = torch.cat([state[f"{at}up.bias"], -loud @ x.mean(0) - LOUD / 2])
        nowhere = torch.zeros(setting.width, extra)
        state[f"{at}down.weight"] = torch.cat([state[f"{at}down.weight"], nowhere], dim=1)
    forged.load_state_dict(state)
    return forged


def _inputs(model: nn.Module, tokens: Tensor) -> list[Tensor]:
    """What enters each feed-forward, [tokens, D]."""
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
        for name, module in model.named_modules()
        if name.endswith(".up")
    ]
    model(tokens)
    for hook in hooks:
        hook.remove()
    return seen


EXPERIMENTS: dict[str, Callable[[Laboratory], Result]] = {
    "E1": reinjection,
    "E2": activations,
    "E3": norm_free,
    "E4": optimizers,
    "E5": widths,
    "E6": prediction,
    "E7": penalties,
    "E8": forgery,
}


def study(
    scale: float = 1.0,
    say: Callable[[str], None] = lambda _: None,
    only: Sequence[str] = tuple(EXPERIMENTS),
    folder: Path | None = None,
) -> Result:
    """The experiments named; a JSON-ready result with every run's loss."""
    lab = Laboratory(scale, say, folder)
    began = time.process_time()
    results = {name: EXPERIMENTS[name](lab) for name in EXPERIMENTS if name in only}
    runs = [
        asdict(t.setting)
        | {
            "loss": t.loss,
            "seconds": t.seconds,
            "flags": sorted({r.flag for r in t.readings if r.flag}),
        }
        for t in lab.traces.values()
    ]
    return {"cpu_seconds": time.process_time() - began, "experiments": results, "runs": runs}


def main() -> None:
    """Run the study and write its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", choices=sorted(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--keep", type=Path, help="folder of runs; those in it are not repeated")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    say = partial(print, file=sys.stderr, flush=True)
    result = study(asked.scale, say, asked.only, asked.keep)
    asked.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
