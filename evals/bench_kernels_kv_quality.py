"""Recall after eviction: every policy on every case, with the intervals claims are read from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nightlab.evals.bench_kernels_kv_tasks import VOCABULARY, Kind, Recall, make, train_model
from nightlab.kernels.kv import (
    POLICIES,
    Eviction,
    Example,
    Lookahead,
    LookaheadShape,
    Prompt,
    Scored,
    Setup,
    TrainConfig,
    budget_rows,
    evict,
    generate,
    policy,
    read_prompt,
    train_lookahead,
)
from nightlab.kernels.kv.decoder import TinyDecoder, TinyShape
from nightlab.kernels.kv.scorers import Oracle

Floats = npt.NDArray[np.float64]
SHAPE = TinyShape(vocabulary=VOCABULARY, bias=True, hidden=192)


@dataclass(frozen=True)
class Case:
    """One way to ask: which task, and whether the question is there when rows are evicted."""

    name: str
    kind: Kind
    seen: bool
    """The question ends the prompt; else it comes after eviction."""
    repeated: bool = False
    """A seen question is put once more after eviction, so that all of the answer is decoded."""


CASES = (
    Case("multi-value, unseen", "multi_value", seen=False),
    Case("multi-hop, unseen", "multi_hop", seen=False),
    Case("multi-value, seen", "multi_value", seen=True),
    Case("multi-hop, seen", "multi_hop", seen=True),
    Case("one-hop control", "one_hop", seen=True, repeated=True),
)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is trained and asked."""

    seeds: tuple[int, ...] = (0, 1, 2)
    prompts: int = 170
    """Per seed and case."""
    length: int = 128
    """Context tokens."""
    model_steps: int = 450
    module_steps: int = 300
    module: LookaheadShape = field(
        default_factory=lambda: LookaheadShape(tokens=8, rank=4, alpha=16.0)
    )
    lr: float = 3e-3
    budgets: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5)
    repeats: int = 40
    """Of each timing."""
    setup: Setup = field(
        default_factory=lambda: Setup(window=4, pool=1, sinks=1, draft_steps=8, draft_window=4)
    )


@dataclass(frozen=True)
class Answers:
    """What one policy got right on one case at one budget."""

    right: Floats
    """[seeds, prompts]: share of the scored answer tokens that were right."""
    stored: float
    """Bytes after eviction over bytes before."""
    mass: float
    """Share of the true response's attention to the prompt that falls on kept rows."""

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


def parts(case: Case, recall: Recall) -> tuple[Tensor, Tensor | None, Tensor]:
    """Prompt, lead (what is given after eviction) and which answer tokens count.

    Where nothing is given, the first answer token comes from the prefill's own logits and says
    nothing about the cache: it does not count.
    """
    if not case.seen:
        return recall.context, recall.question, recall.scored
    prompt = torch.cat([recall.context, recall.question], dim=1)
    if case.repeated:
        return prompt, recall.question, recall.scored
    scored = recall.scored.clone()
    scored[0] = False
    return prompt, None, scored


def lessons(scale: Scale, seed: int) -> Iterator[Example]:
    """Prompts of all cases for the module, each answered by the model itself."""
    generator = torch.Generator().manual_seed(1000 + seed)
    while True:
        which = int(torch.randint(len(CASES), (), generator=generator))
        recall = make(CASES[which].kind, 16, scale.length, generator)
        prompt, lead, _ = parts(CASES[which], recall)
        yield Example(prompt=prompt, lead=lead, steps=recall.answer.shape[1])


def subjects(
    scale: Scale, seed: int, folder: Path, say: Callable[[str], None]
) -> tuple[TinyDecoder, Lookahead]:
    """A trained model and its module, from ``folder`` when they are there already."""
    from safetensors.torch import load_file, save_file

    base, learned = folder / f"base-{seed}.safetensors", folder / f"module-{seed}.safetensors"
    if base.exists():
        model = TinyDecoder(SHAPE).eval()
        model.load_state_dict(load_file(base))
    else:
        model, losses = train_model(SHAPE, seed=seed, steps=scale.model_steps, length=scale.length)
        say(f"seed {seed}: model trained, loss {losses[-1]:.3f}")
        save_file(model.state_dict(), base)
    if learned.exists():
        return model, Lookahead.load(learned, model)
    torch.manual_seed(seed)
    module = Lookahead(model, scale.module)
    config = TrainConfig(steps=scale.module_steps, lr=scale.lr, every=100)
    train_lookahead(
        model,
        module,
        lessons(scale, seed),
        config,
        progress=lambda p: say(f"seed {seed}: module step {p.step}, KL {p.loss:.3f}"),
        checkpoint=learned,
    )
    return model, module


def policies(setup: Setup, response_BN: Tensor) -> dict[str, Eviction]:
    """The registry and the oracle."""
    named = {name: policy(name, setup) for name in POLICIES}
    return {**named, "oracle": Scored(scorer=Oracle(response_BN))}


def ask(
    scale: Scale, model: TinyDecoder, module: Lookahead, case: Case, seed: int
) -> dict[tuple[str, float], tuple[Floats, float, float]]:
    """Right share per prompt, stored share and kept mass, by policy and budget; one seed."""
    generator = torch.Generator().manual_seed(2000 + seed)
    recall = make(case.kind, scale.prompts, scale.length, generator)
    tokens, lead, scored = parts(case, recall)
    response = recall.answer if lead is None else torch.cat([lead, recall.answer], dim=1)
    whole = read_prompt(model, tokens, tokens.shape[1])
    full_bytes = whole.cache.nbytes
    setup = Setup(**{**scale.setup.__dict__, "module": module, "seed": seed})
    with torch.no_grad():
        truth = Oracle(response).score(whole)
    found = {}
    for name, rule in policies(setup, response).items():
        for share in (1.0,) if name == "full" else scale.budgets:
            prompt = Prompt(model, tokens, whole.logits, whole.cache.fork())
            state = evict(prompt, rule, budget_rows(share, tokens.shape[1]))
            stored = state.cache.nbytes / full_bytes
            answer = generate(model, state, recall.answer.shape[1], forced_BN=lead)
            right = (answer == recall.answer)[:, scored].float().mean(dim=1)
            mass = _mass(truth, [k.mask(tokens.shape[1]) for k in state.kept])
            found[name, share] = (right.double().numpy(), stored, mass)
    return found


def _mass(truth: Sequence[Tensor], masks: Sequence[Tensor]) -> float:
    kept = sum(float((s * m).sum()) for s, m in zip(truth, masks, strict=True))
    return kept / sum(float(s.sum()) for s in truth)


def measure(
    scale: Scale, folder: Path, say: Callable[[str], None]
) -> dict[tuple[str, str, float], Answers]:
    """Answers by case, policy and budget, over all seeds."""
    each: dict[tuple[str, str, float], list[tuple[Floats, float, float]]] = {}
    for seed in scale.seeds:
        model, module = subjects(scale, seed, folder, say)
        for case in CASES:
            for (name, share), got in ask(scale, model, module, case, seed).items():
                each.setdefault((case.name, name, share), []).append(got)
            say(f"seed {seed}: {case.name} asked")
    return {
        key: Answers(
            np.stack([right for right, _, _ in got]),
            float(np.mean([stored for _, stored, _ in got])),
            float(np.mean([mass for _, _, mass in got])),
        )
        for key, got in each.items()
    }


def interval(right_SP: Floats, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, prompts resampled within each seed."""
    rng = np.random.default_rng(0)
    S, P = right_SP.shape
    picks = rng.integers(0, P, size=(draws, S, P))
    means = np.take_along_axis(right_SP[None], picks, axis=2).mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def paired(
    answers: Mapping[tuple[str, str, float], Answers], case: str, a: str, b: str, share: float
) -> tuple[float, float, float]:
    """Mean difference a - b on the same prompts, and its interval."""
    difference = answers[case, a, share].right - answers[case, b, share].right
    return (float(difference.mean()), *interval(difference))
