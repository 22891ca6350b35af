"""``nightlab learn``: learn again from everything the ledger holds."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from nightlab.errors import MissingError, UsageError
from nightlab.reading import AsJson, print_json, print_screen, reading
from nightlab.vocabulary import Beginning

if TYPE_CHECKING:
    from nightlab.agents.relearn import Relearned

app = typer.Typer()


@app.command()
def learn(
    campaigns: Annotated[
        list[str] | None, typer.Argument(metavar="[CAMPAIGN]...", help="Only these; all without.")
    ] = None,
    policy: Annotated[
        Beginning, typer.Option("--policy", help="What to start from: warm or cold.")
    ] = Beginning.WARM,
    rounds: Annotated[int, typer.Option(min=1, help="Updates before the gate is asked.")] = 100,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="Keep it for `run --policy warm`.")
    ] = True,
    model: Annotated[
        str, typer.Option(help="Train this language model instead: a folder or a hub name.")
    ] = "",
    method: Annotated[str, typer.Option(help="With --model: sft, dpo or grpo.")] = "sft",
    out: Annotated[Path | None, typer.Option(help="With --model: folder for the adapter.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="With --model: optimizer steps.")] = 100,
    rate: Annotated[float | None, typer.Option(min=0, help="With --model: learning rate.")] = None,
    off_policy: Annotated[
        bool, typer.Option("--off-policy", help="GRPO on stored answers, where that is sound.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Learn off-policy from stored campaigns; adopted only where held-out decisions say so."""
    if model:
        trained = _Model(model, method, out, steps, rate, seed, off_policy)
        _finetune(trained, tuple(campaigns or ()), as_json)
        return
    if policy is Beginning.BANDIT:
        raise UsageError("the bandit has nothing that could learn: choose warm or cold")
    with reading() as (ledger, settings):
        from nightlab.agents.relearn import Order, relearn

        if not ledger.campaigns():
            raise MissingError("there is no campaign to learn from: nightlab run begins one")
        order = Order(campaigns=tuple(campaigns or ()), beginning=policy, rounds=rounds, seed=seed)
        found = relearn(ledger, settings.folder, order, _Progress(rounds), store=store)
    if as_json:
        from nightlab.agents.relearn import document
        from nightlab.memory.report.documents import jsonable

        print_json(jsonable(document(found)))
    else:
        _show(found)


class _Model(NamedTuple):
    """A language model to train."""

    base: str
    method: str
    out: Path | None
    steps: int
    rate: float | None
    seed: int
    off_policy: bool


def _finetune(model: _Model, campaigns: tuple[str, ...], as_json: bool) -> None:
    from nightlab.agents.finetune.learn import Method, Order, document, finetune, recipe_for
    from nightlab.memory.report.documents import jsonable

    if model.method not in list(Method):
        raise UsageError(f"no method {model.method!r}: choose {', '.join(Method)}")
    if model.out is None:
        raise UsageError("--model needs --out, a folder for the adapter")
    method = Method(model.method)
    order = Order(
        base=model.base,
        method=method,
        out=model.out,
        campaigns=campaigns,
        off_policy=model.off_policy,
        recipe=recipe_for(method, model.steps, model.rate, model.seed),
    )
    with reading() as (ledger, _):
        found = finetune(ledger, order, lambda line: print(line, file=sys.stderr, flush=True))
    if as_json:
        print_json(jsonable(document(found)))
        return
    trained = found.trained
    print(f"trained  {found.examples} examples, {trained.steps} steps {trained.stopped}")
    if trained.losses:
        print(f"loss     {trained.losses[0]:.4f} to {trained.losses[-1]:.4f}")
    for name, look in (("before", trained.before), ("after", trained.after)):
        if look is not None:
            words = f"{look.usable:.0%} usable, {look.distinct_texts:.0%} different"
            print(f"{name:8} {words}, worth {look.mean:.2f} mean, {look.best:.2f} best")
    print(f"adapter  {found.adapter}\nmerged   {found.merged}")


class _Progress:
    """Says on stderr how far it is, at most once a second."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.began = time.monotonic()
        self.said = 0.0

    def __call__(self, done: int, losses: Mapping[str, float]) -> None:
        at = time.monotonic()
        if at - self.said < 1.0 and done < self.rounds:
            return
        self.said = at
        left = (at - self.began) / done * (self.rounds - done)
        loss = f", loss {losses['loss']:.3f}" if "loss" in losses else ""
        print(f"update {done}/{self.rounds}{loss}, {left:.0f} s left", file=sys.stderr, flush=True)


def _show(found: "Relearned") -> None:
    from nightlab.memory.report import screens

    table = screens.columns(
        "campaign",
        "decisions",
        "age",
        "likeness",
        "weight",
        "skipped",
        right=("decisions", "age", "likeness", "weight", "skipped"),
    )
    for each in found.sources:
        numbers = (each.age, each.likeness, each.weight)
        shown = [f"{number:.2g}" for number in numbers]
        table.add_row(each.campaign, str(each.decisions), *shown, str(each.skipped))
    print_screen(table)
    print_screen(screens.facts((name, screens.text(value)) for name, value in found.facts()))
