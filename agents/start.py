"""Putting a campaign together: from a goal, or from a stored campaign that goes on."""

import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from nightlab.agents import catalogue, vet
from nightlab.agents import plan as plans
from nightlab.agents.author.connect import connect
from nightlab.agents.author.near import Neighbours
from nightlab.agents.author.write import Authors
from nightlab.agents.campaign import Supervisor, take
from nightlab.agents.carry import beginning
from nightlab.agents.lab import Lab
from nightlab.agents.model import Model
from nightlab.agents.plan import Plan
from nightlab.agents.question import Endpoint
from nightlab.agents.trial import Bench
from nightlab.errors import MissingError, UsageError
from nightlab.evals import meters, own_corpus, scorer
from nightlab.evals.task import Splits, Task, load, names
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import JSON, Call, Campaign, Lease
from nightlab.sandbox.protocol import Sandbox
from nightlab.sandbox.warm import WarmSandbox
from nightlab.vocabulary import Beginning, Objective, Rung, Tier


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a person asks for."""

    goal: str
    objective: Objective
    task: str = "byte_lm"
    data: str | None = None
    """Name of a corpus to use in place of the task's own."""
    workers: int = 2
    proposer: str = "catalogue"
    seed: int | None = None
    """None draws one; it is stored with the campaign either way."""
    unsafe: bool = False
    policy: Beginning = Beginning.BANDIT
    memory: bool = True
    """Whether what earlier campaigns on the task measured counts as evidence."""
    endpoints: tuple[Endpoint, ...] = ()
    """Language models that propose; with the proposer ``auto`` beside the catalogue."""
    embedder: Endpoint | None = None
    """An embedding model that tells near-duplicates among written changes."""
    approval: bool = False
    """Hold what a model wrote until a person approves it."""
    research_plan: str = ""
    """What a model made of the goal; proposers see it."""
    calls: tuple[Call, ...] = ()
    """What was asked before the campaign began: stored with it, and part of its budget."""
    until: datetime | None = None
    """Time at which it ends whatever happened in between; breaks between resumes count."""


def begin(order: Order, ledger: Ledger, sandbox: Sandbox, home: Path) -> Supervisor:
    """A new campaign, its lease taken. Raises UsageError or MissingError before anything runs."""
    task, data = _on_corpus(load(order.task), order.data, home)
    if broken := vet.refuse(task.baseline, task.baseline, vet.own_imports(task)):
        raise UsageError(f"the baseline of task {order.task} cannot be used: {broken}; mend it")
    proposer = _proposer(task, order)
    workers = 1 if task.gpu else order.workers  # trials side by side would share one GPU's clock
    plan = plans.make(task, order.objective, workers)
    hush = threading.Event()
    models = connect(
        (*order.endpoints, *([order.embedder] if order.embedder else [])),
        order.objective.budget,
        home,
        hush,
        tokens=sum(call.tokens_in + call.tokens_out for call in order.calls),
        usd=sum(call.usd or 0.0 for call in order.calls),
    )
    splits = scorer.make(task).prepare(home)
    settings: dict[str, JSON] = {
        "data": data,
        "corpus": splits.digest,
        "corpus_origin": splits.origin,
        "baseline": task.baseline.id,
        "screen": plan.screen.name,
        "confirm": plan.confirm.name,
        "noise_trials": plan.noise_trials,
        "unsafe": order.unsafe,
        "policy": order.policy,
        "memory": order.memory,
        "until": order.until.astimezone(UTC).isoformat() if order.until else None,
        "models": [endpoint.name for endpoint in order.endpoints],
        "embedder": order.embedder.name if order.embedder else None,
        "approval": order.approval,
        "research_plan": order.research_plan,
    }
    campaign = ledger.create_campaign(
        order.goal,
        order.objective,
        task=order.task if order.task in names() else str(Path(order.task).absolute()),
        tier=sandbox.tier,
        proposer=proposer,
        seed=secrets.randbelow(1 << 31) if order.seed is None else order.seed,
        workers=workers,
        settings=settings,
    )
    for call in order.calls:
        ledger.record_call(campaign.id, call)
    if parts := task.focus.get(order.objective.metric):
        ledger.add_directive(campaign.id, f"try {', '.join(parts)}")
    lease = take(ledger, campaign.id)
    if task.note:
        ledger.log(campaign.id, "task", task.note)
    metered = campaign.objective.metrics
    place = bench(task, splits, sandbox, campaign.workers, wanted=metered)
    return _supervise(ledger, lease, campaign, place, plan, home, models, hush)


def _on_corpus(task: Task, asked: str | None, home: Path) -> tuple[Task, str | None]:
    """The task on the version of a corpus that the campaign keeps, and that version's name.

    Raises:
        UsageError: there is no such corpus, or the task makes its own data.
    """
    if task.script is not None:
        if asked is not None:
            raise UsageError(f"task {task.name} makes its own data: leave --data out")
        return task, None
    named = asked or task.data.get("corpus")
    pinned = own_corpus.find(str(named), home).pinned if named else None
    return own_corpus.on(task, pinned), pinned


def _proposer(task: Task, order: Order) -> str:
    """Who proposes; the catalogue does not where it knows nothing of the program.

    Raises:
        MissingError: nobody can propose anything.
    """
    if catalogue.neighbours(task.baseline):
        return order.proposer
    if order.endpoints:
        return "llm"
    raise MissingError(
        f"nobody can propose edits for task {order.task}: the catalogue knows no part and no dial "
        "of its program (docs/catalogue.md names them), and no language model is configured (set "
        "NIGHTLAB_MODEL, and OPENAI_API_KEY or OPENAI_BASE_URL)"
    )


def resume(
    campaign_id: str,
    ledger: Ledger,
    sandbox: Sandbox,
    home: Path,
    endpoints: Sequence[Endpoint] = (),
) -> Supervisor:
    """A stored campaign, taken up where it was left.

    Raises:
        UsageError: it is not there, its corpus has changed, or another supervisor holds it.
        MissingError: the models it was begun with are not configured or do not answer.
    """
    campaign = ledger.campaign(campaign_id)
    named = campaign.settings.get("data")
    task = own_corpus.on(load(campaign.task), str(named) if named else None)
    splits = scorer.make(task).prepare(home)
    if splits.digest != campaign.settings.get("corpus"):
        raise UsageError(
            f"campaign {campaign_id} was measured on corpus {campaign.settings.get('corpus')}, but "
            f"what is installed now makes {splits.digest}: start a new campaign"
        )
    if campaign.tier != sandbox.tier:
        raise UsageError(
            f"campaign {campaign_id} runs in the {campaign.tier} tier: resume it with "
            f"--sandbox {campaign.tier}"
        )
    plan = _stored_plan(task, campaign)
    hush = threading.Event()
    wanted = _stored_endpoints(campaign, endpoints)
    spent = ledger.spent(campaign.id)
    models = connect(
        wanted, campaign.objective.budget, home, hush, tokens=spent.tokens, usd=spent.usd
    )
    lease = take(ledger, campaign.id)
    metered = campaign.objective.metrics
    place = bench(task, splits, sandbox, campaign.workers, wanted=metered)
    return _supervise(ledger, lease, campaign, place, plan, home, models, hush)


def _stored_endpoints(campaign: Campaign, configured: Sequence[Endpoint]) -> list[Endpoint]:
    """The models that a campaign was begun with, at the places configured now."""
    names = campaign.settings.get("models") or []
    by_name = {endpoint.name: endpoint for endpoint in configured}
    wanted = _texts(names)
    if embedder := campaign.settings.get("embedder"):
        wanted.append(str(embedder))
    if missing := [name for name in wanted if name not in by_name]:
        raise MissingError(
            f"campaign {campaign.id} asks {', '.join(missing)}: set NIGHTLAB_MODEL, and "
            "OPENAI_API_KEY or OPENAI_BASE_URL, as they were"
        )
    return [by_name[name] for name in wanted]


def _texts(names: JSON) -> list[str]:
    return [str(name) for name in names] if isinstance(names, Sequence) else []


def _stored_plan(task: Task, campaign: Campaign) -> Plan:
    def rung(key: str) -> Rung:
        return task.rung(str(campaign.settings[key]))

    return Plan(
        screen=rung("screen"),
        confirm=rung("confirm"),
        noise_trials=int(str(campaign.settings["noise_trials"])),
        workers=campaign.workers,
        scoring_seconds=task.scoring_seconds + sum(map(meters.seconds, campaign.objective.metrics)),
    )


def bench(
    task: Task,
    splits: Splits,
    sandbox: Sandbox,
    workers: int,
    *,
    warm: bool = True,
    wanted: frozenset[str] = frozenset(),
) -> Bench:
    """Where trials run; of the meters that take time, those for ``wanted`` metrics are read.

    An isolating tier opens the next cells before they are needed; the process tier forks from a
    warm server and has no need to.
    """
    device = "cuda" if task.gpu else "cpu"
    made = Bench(task=task, splits=splits, sandbox=sandbox, device=device, wanted=wanted)
    if not warm or sandbox.tier is Tier.PROCESS:
        return made
    rooms = [made.training_room] * workers + [made.oracle_room] * 2
    return replace(made, sandbox=WarmSandbox(sandbox, rooms))


def _supervise(
    ledger: Ledger,
    lease: Lease,
    campaign: Campaign,
    bench: Bench,
    plan: Plan,
    home: Path,
    models: Mapping[str, Model],
    hush: threading.Event,
) -> Supervisor:
    lab = Lab(
        ledger=ledger,
        lease=lease,
        campaign=campaign,
        bench=bench,
        plan=plan,
        unsafe=bool(campaign.settings.get("unsafe")),
    )
    embedder = models.get(str(campaign.settings.get("embedder")))
    names = campaign.settings.get("models") or []
    models = {name: model for name, model in models.items() if name in _texts(names)}
    authors = (*(() if campaign.proposer == "llm" else ("catalogue",)), *models)
    writers = None
    if models:
        patches = all(model.endpoint.responses for model in models.values())
        near = Neighbours(lab, embedder) if embedder else None
        writers = Authors(lab, models, patches=patches, near=near)
        lab.log("model", _said_of(campaign, models, unsafe=lab.unsafe))
        if not catalogue.neighbours(bench.task.baseline):
            lab.log("model", "the catalogue knows no part of this program: only models propose")
    return Supervisor(
        lab,
        beginning(home, campaign.id, Beginning(str(campaign.settings.get("policy", "bandit")))),
        home / "checkpoints.db",
        authors=authors,
        writers=writers,
        hush=hush,
    )


def _said_of(campaign: Campaign, models: Mapping[str, Model], *, unsafe: bool) -> str:
    """Who proposes, where they are and what is known of their price, for the log."""
    rows = [
        f"{model.name} at {model.endpoint.place}"
        + (" (price unknown)" if model.price is None else "")
        for model in models.values()
    ]
    beside = "" if campaign.proposer == "llm" else ", beside the catalogue"
    bound = campaign.tier == Tier.PROCESS and not unsafe
    only = "; in the process tier they choose operators and write no code" if bound else ""
    return f"proposals by {', '.join(rows)}{beside}{only}"
