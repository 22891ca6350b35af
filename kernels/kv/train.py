"""Training of the lookahead module on the model's own responses.

Source: LookaheadKV, arXiv 2603.10899, sections 3 and 4. From causality, no prompt or response
token sees the lookahead tokens, so one pass without gradient gives the prompt's keys and the
target; the n lookahead tokens alone then run with gradient against that fixed cache.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from nightlab.kernels.kv.contract import Decoder
from nightlab.kernels.kv.eviction import Prefilled, Prompt, generate, observe, read_prompt
from nightlab.kernels.kv.lookahead import Lookahead
from nightlab.kernels.kv.scores import differentiable_scores, lookahead_scores, reduce_heads

Target = Literal["attention", "value"]
"""What is imitated: s_GT, or s_GT times ``|v|``."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A batch of prompts of one length, and how their responses come about."""

    prompt: Tensor
    """[B, T] (int64)."""
    lead: Tensor | None = None
    """[B, N]: given start of the response, such as a question that comes after eviction."""
    steps: int = 16
    """Tokens the model itself answers, greedily."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a module is trained; the learning rate is the paper's, the rest it does not say."""

    steps: int = 600
    lr: float = 1e-3
    warmup: int = 20
    """Steps of linear warm-up; then cosine to a tenth."""
    clip: float = 1.0
    """Gradient norm limit."""
    per_query_head: bool = False
    """KL per query head (the paper); else after the group mean, which is what selection uses."""
    target: Target = "attention"
    every: int = 100
    """Steps between progress reports and checkpoints."""


@dataclass(frozen=True)
class Progress:
    """Where training stands."""

    step: int
    loss: float
    """Mean KL in nats since the last report."""


def respond(model: Decoder, prompt: Prompt, example: Example) -> Tensor:
    """Lead and greedy answer [B, lead + steps]; the prompt's cache stays as it was."""
    state = Prefilled(prompt.logits, prompt.cache.fork())
    answer = generate(model, state, example.steps, forced_BN=example.lead)
    lead = answer[:, :0] if example.lead is None else example.lead
    return torch.cat([lead, answer], dim=1)


@torch.no_grad()
def targets(prompt: Prompt, response_BN: Tensor, config: TrainConfig) -> list[Tensor]:
    """Per layer the importance to imitate, per query head [B, H, T] or per group [B, G, T]."""
    probe = observe(prompt.model, prompt.cache, prompt.model.embed(response_BN))
    out = []
    for layer, (q, own) in enumerate(zip(probe.q, probe.k, strict=True)):
        k, v = prompt.cache.dense(layer)
        s = lookahead_scores(q, k, own, keep_heads=config.per_query_head)
        if config.target == "value":
            size = torch.linalg.vector_norm(v.float(), dim=-1)
            s = s * size.repeat_interleave(s.shape[1] // size.shape[1], dim=1)
        out.append(s)
    return out


def divergence(target: Tensor, predicted: Tensor, floor: float = 1e-9) -> Tensor:
    """Mean over heads of KL(target^ || predicted^) over T, both renormalised (the paper's loss)."""
    p = target / target.sum(dim=-1, keepdim=True).clamp_min(floor)
    q = predicted / predicted.sum(dim=-1, keepdim=True).clamp_min(floor)
    each: Tensor = torch.special.xlogy(p, p.clamp_min(floor) / q.clamp_min(floor)).sum(dim=-1)
    return each.mean()


def lookahead_loss(
    module: Lookahead, prompt: Prompt, wanted: list[Tensor], config: TrainConfig
) -> Tensor:
    """The KL of one batch, averaged over layers and heads; gradient to the module only."""
    probe = module.look(prompt.model, prompt.cache)
    total = wanted[0].new_zeros(())
    for layer, (q, own) in enumerate(zip(probe.q, probe.k, strict=True)):
        k = prompt.cache.dense(layer)[0]
        s = differentiable_scores(q, k, own)
        if not config.per_query_head:
            s = reduce_heads(s, k.shape[1], "mean")
        total = total + divergence(wanted[layer], s)
    return total / len(wanted)


def imitation_loss(
    module: Lookahead, prompt: Prompt, response_BN: Tensor, config: TrainConfig
) -> Tensor:
    """The KL for a given response, for a program that trains its module beside other losses.

    Gradient to the module only, even where the module is a part of the model.
    """
    wanted = targets(prompt, response_BN, config)
    with frozen(prompt.model):
        module.requires_grad_(True)
        return lookahead_loss(module, prompt, wanted, config)


@contextmanager
def frozen(model: Decoder) -> Iterator[None]:
    """No parameter of the model takes a gradient within the block."""
    if not isinstance(model, nn.Module):
        yield
        return
    before = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for p, wanted in before:
            p.requires_grad_(wanted)


def train_lookahead(
    model: Decoder,
    module: Lookahead,
    examples: Iterable[Example],
    config: TrainConfig,
    *,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
) -> list[Progress]:
    """Train ``module`` in place on at most ``config.steps`` examples; returns what it reported.

    ``checkpoint`` is rewritten at each report (safetensors, see :meth:`Lookahead.load`). The base
    model is frozen throughout and left as it was found.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=config.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    reports: list[Progress] = []
    losses: list[float] = []
    with frozen(model):
        for step, example in zip(range(1, config.steps + 1), examples, strict=False):
            losses.append(_train_step(model, module, example, config, optimizer))
            schedule.step()
            if step % config.every == 0 or step == config.steps:
                reports.append(Progress(step, sum(losses) / len(losses)))
                losses.clear()
                _report(reports[-1], module, progress, checkpoint)
    return reports


def _train_step(
    model: Decoder,
    module: Lookahead,
    example: Example,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
) -> float:
    prompt = read_prompt(model, example.prompt)
    wanted = targets(prompt, respond(model, prompt, example), config)
    loss = lookahead_loss(module, prompt, wanted, config)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(module.parameters(), config.clip)
    optimizer.step()
    return loss.item()


def _rate(step: int, config: TrainConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(done, 1.0)))


def _report(
    report: Progress,
    module: Lookahead,
    progress: Callable[[Progress], None] | None,
    checkpoint: Path | None,
) -> None:
    if checkpoint is not None:
        module.save(checkpoint)
    if progress is not None:
        progress(report)
