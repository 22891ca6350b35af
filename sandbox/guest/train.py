"""The frozen trainer: trains a program on the task's train split for a budget of CPU time.

The budget counts this process's own CPU seconds, so two trials side by side see the same amount;
the host counts them again from outside and decides. What this file writes is self-reported:
``weights.safetensors``, which the scorer measures through the oracle, ``curve.jsonl``, and the
advisory ``spectra.jsonl``.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn import functional as F

from nightlab.sandbox.guest.oracle import decodes
from nightlab.sandbox.guest.spectra import Recording
from nightlab.sandbox.guest.windows import Source, Windows, fitting, probed

CURVE_POINTS = 50


@dataclass(frozen=True)
class TrainJob:
    """What the evaluator fixes: the program has no say in any of it."""

    seed: int
    budget_seconds: float
    """CPU seconds of the training loop; on a GPU, wall seconds."""
    sources: Sequence[Source]
    """The train split; the one with the longest rows that fit the program's context is used."""
    out: Path
    max_context: int
    shortest: int = 0
    """Tokens of the shortest input that it will be asked to read, beyond its own context or not."""
    device: str = "cpu"


Report = Callable[[dict[str, Any]], None]


Batch = tuple[Tensor, Tensor, Tensor | None]
"""Inputs and targets, each (B, T) int64, and which targets count, (B, T) float32, or None."""


class Batches:
    """Windows of the train split as tensors."""

    def __init__(self, source: Source, context: int, batch: int, seed: int, device: str) -> None:
        self._windows = Windows(source, context, batch, seed)
        self._device = device
        self.tokens = batch * self._windows.context
        """Inputs of one batch."""

    def next(self) -> Batch:
        """The next batch."""
        window, mask = self._windows.next()
        tokens = torch.from_numpy(window).to(self._device)
        counts = None if mask is None else torch.from_numpy(mask).to(self._device)
        return tokens[:, :-1], tokens[:, 1:], counts


def build(program: ModuleType, seed: int, device: str) -> tuple[nn.Module, Any]:
    """The program's model and recipe, initialised from the evaluator's seed."""
    torch.manual_seed(seed)
    recipe = program.Recipe()
    return program.Model(recipe).to(device), recipe


def loss_of(
    model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor, counts_BT: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy in nats over the targets that count, plus what the model says its own
    auxiliary losses are."""
    with torch.autocast(inputs_BT.device.type, torch.bfloat16, enabled=inputs_BT.is_cuda):
        logits = model(inputs_BT)
    logits = logits.flatten(0, 1).float()
    if counts_BT is None:
        loss = F.cross_entropy(logits, targets_BT.flatten())
    else:
        each = F.cross_entropy(logits, targets_BT.flatten(), reduction="none")
        loss = (each * counts_BT.flatten()).sum() / counts_BT.sum().clamp(min=1)
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
        if job.shortest > recipe.context:
            _read(model, torch.randint(0, program.VOCABULARY, (1, job.shortest), device=job.device))


def _read(model: nn.Module, tokens_BT: Tensor) -> None:
    """Read a context as it will be when it is scored: into a cache where the model has one."""
    try:
        if decodes(model):
            model.prefill(tokens_BT, model.init_cache(len(tokens_BT)))  # type: ignore[operator]
        else:
            model(tokens_BT)
    except Exception as error:
        raise ValueError(
            f"cannot read {tokens_BT.shape[1]} tokens, the shortest context that is scored: {error}"
        ) from error


def train(program: ModuleType, job: TrainJob, report: Report) -> None:
    """Train until the budget is spent, then save the weights."""
    model, recipe = build(program, job.seed, job.device)
    optimizer = program.make_optimizer(model, recipe)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    source = fitting(job.sources, recipe.context)
    batches = Batches(source, recipe.context, recipe.batch, job.seed, job.device)
    clock = time.process_time if job.device == "cpu" else time.monotonic
    model.train()
    spectra = Recording(model, job.out)
    training = _Training(model, optimizer, recipe, batches, clock, spectra)
    with (job.out / "curve.jsonl").open("w", buffering=1) as curve:
        steps = _loop(program, job, training, curve.write, report)
    finish = getattr(optimizer, "finish", None)
    if callable(finish):
        finish()
    rows_BT = torch.from_numpy(probed(job.sources, recipe.context, job.seed)).to(job.device)
    spectra.last(steps, rows_BT)
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
    """Trains until the budget is spent, to the nearest step, so that long steps gain nothing;
    returns the number of updates made."""
    losses: list[float] = []
    start, step, due, before = t.clock(), 0, 0.0, 0.0
    while True:
        progress = (t.clock() - start) / job.budget_seconds
        if progress + (progress - before) / 2 >= 1.0:
            if losses:  # the file ends with all the tokens that it was fed
                write(json.dumps(_point(t, progress, step, losses)) + "\n")
            return step
        before = progress
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
            point = _point(t, progress, step, losses)
            write(json.dumps(point) + "\n")
            report(point)
            losses, due = [], progress + 1 / CURVE_POINTS


def _point(
    t: _Training, progress: float, step: int, losses: Sequence[float]
) -> dict[str, int | float]:
    """Where the training stands; the loss is the mean since the point before."""
    tokens = step * t.batches.tokens
    loss = sum(losses) / len(losses)
    return {"progress": progress, "step": step, "tokens": tokens, "loss": loss}
