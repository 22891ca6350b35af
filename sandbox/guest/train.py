"""The frozen trainer: trains a program on the task's train split for a budget of CPU time.

The budget counts this process's own CPU seconds, so two trials side by side see the same amount;
the host counts them again from outside and decides. What this file writes is self-reported:
``weights.safetensors``, which the scorer measures through the oracle, ``curve.jsonl``, and the
advisory ``spectra.jsonl``.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn import functional as F

from nightlab.sandbox.guest.spectra import Recording

CURVE_POINTS = 50


@dataclass(frozen=True)
class TrainJob:
    """What the evaluator fixes: the program has no say in any of it."""

    seed: int
    budget_seconds: float
    """CPU seconds of the training loop; on a GPU, wall seconds."""
    data: Path
    """The train split: raw bytes, or little-endian uint16 tokens when it ends in .u16."""
    out: Path
    max_context: int
    device: str = "cpu"


Report = Callable[[dict[str, Any]], None]


class Batches:
    """Random windows of the train split, in an order that only the evaluator's seed decides."""

    def __init__(self, data: Path, context: int, batch: int, seed: int, device: str) -> None:
        dtype = np.uint16 if data.suffix == ".u16" else np.uint8
        self.data = np.memmap(data, dtype=dtype, mode="r")
        self.context, self.batch, self.device = context, batch, device
        self.rng = np.random.default_rng(seed)

    def next(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets, each (B, T) int64."""
        starts = self.rng.integers(0, len(self.data) - self.context, self.batch)
        rows = self.data[starts[:, None] + np.arange(self.context + 1)].astype(np.int64)
        window = torch.from_numpy(rows).to(self.device)
        return window[:, :-1], window[:, 1:]


def build(program: ModuleType, seed: int, device: str) -> tuple[nn.Module, Any]:
    """The program's model and recipe, initialised from the evaluator's seed."""
    torch.manual_seed(seed)
    recipe = program.Recipe()
    return program.Model(recipe).to(device), recipe


def loss_of(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats, plus what the model says its own auxiliary losses are."""
    logits = model(inputs_BT)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), targets_BT.flatten())
    extra = getattr(model, "auxiliary_loss", None)
    return loss + extra() if callable(extra) else loss


def smoke(program: ModuleType, job: TrainJob) -> None:
    """Build, one forward and backward, one optimizer step, and a causality check; raises."""
    model, recipe = build(program, job.seed, job.device)
    length = min(recipe.context, 32)
    if not 1 <= recipe.context <= job.max_context:
        raise ValueError(f"context {recipe.context} is outside 1 to {job.max_context}")
    tokens = torch.randint(0, program.VOCABULARY, (2, length), device=job.device)
    optimizer = program.make_optimizer(model, recipe)
    loss = loss_of(model, tokens, tokens)
    if not torch.isfinite(loss):
        raise ValueError("the first loss is not finite")
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    model.eval()
    changed = tokens.clone()
    changed[:, length // 2 :] = (changed[:, length // 2 :] + 1) % program.VOCABULARY
    with torch.no_grad():
        kept, moved = (model(t)[:, : length // 2] for t in (tokens, changed))
    if not torch.allclose(kept, moved, atol=1e-4, rtol=1e-3):
        raise ValueError("not causal: later tokens change earlier logits")


def train(program: ModuleType, job: TrainJob, report: Report) -> None:
    """Train until the budget is spent, then save the weights."""
    model, recipe = build(program, job.seed, job.device)
    optimizer = program.make_optimizer(model, recipe)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    batches = Batches(job.data, recipe.context, recipe.batch, job.seed, job.device)
    clock = time.process_time if job.device == "cpu" else time.monotonic
    model.train()
    spectra = Recording(model, job.out)
    training = _Training(model, optimizer, recipe, batches, clock, spectra)
    with (job.out / "curve.jsonl").open("w", buffering=1) as curve:
        steps = _loop(program, job, training, curve.write, report)
    finish = getattr(optimizer, "finish", None)
    if callable(finish):
        finish()
    spectra.last(steps, batches.next()[0])
    save_model(model, str(job.out / "weights.safetensors"))


@dataclass
class _Training:
    model: nn.Module
    optimizer: Any
    recipe: Any
    batches: Batches
    clock: Callable[[], float]
    spectra: Recording


def _loop(
    program: ModuleType, job: TrainJob, t: _Training, write: Callable[[str], Any], report: Report
) -> int:
    """Trains until the budget is spent; returns the number of updates made."""
    start, step, losses, due = t.clock(), 0, [], 0.0
    while (progress := (t.clock() - start) / job.budget_seconds) < 1.0:
        rate = program.schedule(progress, t.recipe)
        for group in t.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        batch = t.batches.next()
        loss = t.spectra.loss(step, partial(loss_of, t.model, *batch))
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is not finite at step {step}")
        t.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if t.recipe.clip > 0:
            nn.utils.clip_grad_norm_(t.model.parameters(), t.recipe.clip)
        t.optimizer.step()
        step += 1
        if progress >= due:
            tokens = step * t.recipe.batch * t.recipe.context
            point = {"progress": progress, "step": step, "tokens": tokens}
            point["loss"] = sum(losses) / len(losses)
            write(json.dumps(point) + "\n")
            report(point)
            losses, due = [], progress + 1 / CURVE_POINTS
    return step
