"""``nightlab bench loop``: what a trial costs beside training and scoring, and what workers bring.

A real campaign runs on the byte-level task with its rungs cut to a second, once with cells opened
only when their job is known (cold) and once with cells opened ahead (warm). Overhead is everything
in an experiment's graph that is neither the run itself nor scoring arithmetic.
"""

import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from nightlab.agents import start
from nightlab.agents.campaign import baseline, take
from nightlab.agents.decide import Decider, menu
from nightlab.agents.graph import ORDER, build
from nightlab.agents.lab import Lab
from nightlab.agents.nodes import Nodes
from nightlab.agents.plan import Plan
from nightlab.agents.policy.bandit import PuctThompson
from nightlab.agents.round import Round
from nightlab.evals import scorer
from nightlab.evals.task import SHIPPED, Task, load
from nightlab.memory.ledger import Ledger
from nightlab.sandbox.choose import choose
from nightlab.vocabulary import Budget, Objective, Tier

RUNG_SECONDS = 1.0
SCALING_SECONDS = 5.0
TARGETS = {Tier.PROCESS: 1.5, Tier.BWRAP: 1.5, Tier.DOCKER: 3.0, Tier.DOCKER_RUNSC: 3.0}


@dataclass
class TimedNodes(Nodes):
    """The graph's nodes, with the time each took."""

    spent: dict[str, dict[str, float]] = field(default_factory=dict)

    def __getattribute__(self, name: str) -> object:
        method = object.__getattribute__(self, name)
        if name not in ORDER:
            return method
        spent = object.__getattribute__(self, "spent")

        def timed(state: Round) -> Round:
            started = time.monotonic()
            result: Round = method(state)
            one = spent.setdefault(state["experiment"], {})
            one[name] = one.get(name, 0.0) + time.monotonic() - started
            return result

        return timed


def run(tier: str, experiments: int, home: Path, *, scaling: bool) -> Mapping[str, object]:
    """Rows and claims; ``home`` holds the corpus, everything else is thrown away."""
    rows: list[Mapping[str, object]] = []
    choice = choose(tier)
    choice.sandbox.close()
    chosen = choice.sandbox.tier
    for warm in (False, True):
        rows += _overheads(chosen, experiments, home, warm=warm)
    measured = median(float(str(r["overhead"])) for r in rows if r["path"] == "warm")
    claims = [_claim(f"overhead per trial, {chosen}", TARGETS[chosen], measured, "s", measured)]
    if scaling:
        gain = _scaling(chosen, home)
        claims.append(_claim("trials of two workers over one", 1.8, gain, "x", -gain, -1.8))
    return {
        "bench": "loop",
        "settings": {"tier": chosen, "experiments": experiments, "rung_seconds": RUNG_SECONDS},
        "rows": rows,
        "claims": claims,
    }


def _claim(
    name: str, target: float, measured: float, unit: str, low: float, bar: float | None = None
) -> Mapping[str, object]:
    holds = low <= (target if bar is None else bar)
    return {"name": name, "target": target, "measured": measured, "unit": unit, "holds": holds}


def _overheads(
    tier: Tier, experiments: int, home: Path, *, warm: bool
) -> Iterator[Mapping[str, object]]:
    with _lab(tier, home, workers=1, warm=warm, seconds=RUNG_SECONDS) as lab:
        baseline(lab)
        nodes = TimedNodes(lab, Decider(lab, PuctThompson(), menu(("catalogue",))))
        graph = build()
        for _ in range(experiments):
            experiment = lab.ledger.begin_experiment(lab.lease).id
            graph.invoke({"experiment": experiment}, context=nodes)
            if row := _row(lab, experiment, nodes.spent[experiment]):
                yield {"path": "warm" if warm else "cold", **row}


def _row(lab: Lab, experiment: str, spent: Mapping[str, float]) -> Mapping[str, object] | None:
    trials = [t for t in lab.ledger.trials(experiment=experiment) if t.run is not None]
    if not trials:
        return None
    running = sum(t.run.wall_seconds for t in trials if t.run)
    scoring = sum(t.measurement.scoring_seconds for t in trials if t.measurement)
    nodes = {name: round(seconds, 4) for name, seconds in spent.items()}
    overhead = (sum(spent.values()) - running - scoring) / len(trials)
    return {
        "experiment": experiment,
        "trials": len(trials),
        "overhead": round(overhead, 4),
        "startup": round(sum(t.run.startup_seconds for t in trials if t.run), 4),
        "run": round(running, 4),
        "scoring": round(scoring, 4),
        "nodes": nodes,
    }


def _scaling(tier: Tier, home: Path) -> float:
    """Trials a second of two workers over one, on the baseline, warm."""
    rates = []
    for workers in (1, 2):
        with _lab(tier, home, workers=workers, warm=True, seconds=SCALING_SECONDS) as lab:
            started = time.monotonic()
            baseline(lab)
            rates.append(lab.plan.noise_trials / (time.monotonic() - started))
    return rates[1] / rates[0]


@contextmanager
def _lab(tier: Tier, home: Path, *, workers: int, warm: bool, seconds: float) -> Iterator[Lab]:
    """A campaign in a folder of its own, on the byte-level task with one short rung."""
    folder = Path(tempfile.mkdtemp(prefix="nightlab-bench-"))
    task = _short_task(folder, seconds)
    choice = choose(tier)
    splits = scorer.make(task).prepare(home)
    place = start.bench(task, splits, choice.sandbox, workers, warm=warm)
    try:
        with Ledger.open(f"sqlite:///{folder}/ledger.db", folder / "artifacts") as ledger:
            objective = Objective(metric=task.metric, direction=task.direction, budget=Budget())
            campaign = ledger.create_campaign(
                "bench", objective, task=task.name, tier=tier, proposer="catalogue", seed=1
            )
            rung = task.rungs[0]
            plan = Plan(screen=rung, confirm=rung, noise_trials=6, workers=workers)
            lease = take(ledger, campaign.id)
            yield Lab(ledger=ledger, lease=lease, campaign=campaign, bench=place, plan=plan)
    finally:
        place.sandbox.close()
        shutil.rmtree(folder, ignore_errors=True)


def _short_task(folder: Path, seconds: float) -> Task:
    copy = folder / "byte_lm"
    shutil.copytree(SHIPPED / "byte_lm", copy)
    toml = copy / "task.toml"
    toml.write_text(re.sub(r"cpu_seconds = \d+", f"cpu_seconds = {seconds}", toml.read_text()))
    return load(str(copy))
