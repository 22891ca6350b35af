"""``nightlab learn --model BASE``: from the ledger to an adapter that proposes."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from nightlab.agents.finetune import selection
from nightlab.agents.finetune.examples import Examples, read
from nightlab.agents.finetune.selection import Group
from nightlab.agents.finetune.trainer import Recipe, Trained, Trainee
from nightlab.errors import UsageError
from nightlab.memory.ledger import Ledger


class Method(StrEnum):
    """What of the ledger trains."""

    SFT = "sft"
    """Confirmed improvements."""
    DPO = "dpo"
    """Siblings of one parent."""
    GRPO = "grpo"
    """The model's own answers, paid by what the ledger measured."""


RATES: Mapping[Method, float] = {Method.SFT: 1e-4, Method.DPO: 1e-5, Method.GRPO: 1e-6}
"""Learning rates where none is given (docs/finetune.md)."""
PROBES = 2
"""Parents whose prompts show how diverse the model is."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to train, on what, and how."""

    base: str
    """Folder or hub name."""
    method: Method
    out: Path
    campaigns: tuple[str, ...] = ()
    off_policy: bool = False
    """GRPO on stored answers instead of fresh ones: needs their token log-probabilities."""
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """What came of it."""

    order: Order
    examples: int
    trained: Trained
    adapter: Path
    merged: Path


def finetune(ledger: Ledger, order: Order, say: Callable[[str], None]) -> Finetuned:
    """Select, train, export. What a mistake can show is checked before a model is loaded.

    Raises:
        UsageError: ``out`` is taken, or the base cannot be read.
        MissingError: too little in the ledger, no log-probabilities, or no extra ``finetune``.
    """
    if order.out.exists() and any(order.out.iterdir()):
        raise UsageError(f"{order.out} is not empty: give another --out")
    wanted = [ledger.campaign(name) for name in order.campaigns] or ledger.campaigns()
    sets = [read(ledger, campaign) for campaign in wanted]
    groups = selection.groups(sets)
    say(f"{sum(len(one.rows) for one in sets)} proposals in {len(sets)} campaign(s)")
    count, train = _job(order, sets, groups, say)
    trainee = Trainee(order.base, order.recipe, groups[:PROBES])
    trained = train(trainee)
    order.out.mkdir(parents=True, exist_ok=True)
    adapter, merged = trainee.export(order.out)
    found = Finetuned(order=order, examples=count, trained=trained, adapter=adapter, merged=merged)
    (order.out / "finetune.json").write_text(json.dumps(document(found), indent=2))
    (order.out / "USE.md").write_text(usage(found))
    return found


def _job(
    order: Order, sets: Sequence[Examples], groups: list[Group], say: Callable[[str], None]
) -> tuple[int, Callable[[Trainee], Trained]]:
    """How many examples the method has, and its training."""
    if order.off_policy and order.method is not Method.GRPO:
        raise UsageError(f"--off-policy is about grpo; {order.method} learns from stored answers")
    match order.method:
        case Method.SFT:
            rows = selection.confirmed(sets)
            selection.enough("sft", len(rows), len(sets))
            return len(rows), lambda trainee: trainee.sft(rows, say)
        case Method.DPO:
            pairs = selection.preferences(sets)
            selection.enough("dpo", len(pairs), len(sets))
            return len(pairs), lambda trainee: trainee.dpo(pairs, say)
        case Method.GRPO:
            selection.enough("grpo", len(groups), len(sets))
            if order.off_policy:
                selection.stored_groups(groups)
                raise UsageError("off-policy GRPO is not built: leave --off-policy out")
            return len(groups), lambda trainee: trainee.grpo(groups, say)


def recipe_for(method: Method, steps: int, rate: float | None, seed: int) -> Recipe:
    """The method's own rate where none is given."""
    return replace(Recipe(), steps=steps, rate=rate or RATES[method], seed=seed)


def document(found: Finetuned) -> dict[str, object]:
    """What ``--json`` prints and ``finetune.json`` holds."""
    trained = found.trained
    return {
        "base": found.order.base,
        "method": str(found.order.method),
        "examples": found.examples,
        "recipe": asdict(found.order.recipe),
        "steps": trained.steps,
        "stopped": trained.stopped,
        "losses": trained.losses,
        "before": asdict(trained.before) if trained.before else None,
        "after": asdict(trained.after) if trained.after else None,
        "samples": list(trained.samples),
        "adapter": str(found.adapter),
        "merged": str(found.merged),
    }


def usage(found: Finetuned) -> str:
    """How to serve what was trained, and let it propose."""
    base, merged = found.order.base, found.merged
    return f"""# A proposer trained by nightlab

Base: `{base}`. Method: {found.order.method}. {found.examples} examples,
{found.trained.steps} steps.
`finetune.json` holds losses and the diversity of answers before and after.

vLLM, adapter beside the base, or merged:

    vllm serve {base} --enable-lora --lora-modules nightlab={found.adapter}
    vllm serve {merged} --served-model-name nightlab

llama.cpp:

    python convert_hf_to_gguf.py {merged} --outfile nightlab.gguf
    llama-server -m nightlab.gguf --port 8000

Then let it propose:

    export NIGHTLAB_MODEL=nightlab OPENAI_BASE_URL=http://127.0.0.1:8000/v1
    nightlab run "lower val_bpb in 30 minutes" --proposer auto
"""
