"""Makes the policy that ships: learns from simulated and recorded campaigns, round by round.

    python -m nightlab.agents.bench_search.pretrain --tables DIR --train nb201-cifar10 --out FILE

Each round, policies run short campaigns on training tables (the first round the bandit, then
the version in charge); their decisions join a replay buffer that the update of ``learn`` trains
on, with the same loss; the gate judges each round's candidate on campaigns that were held out.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nightlab.agents.bench_search.campaign import Campaign
from nightlab.agents.bench_search.nights import night_records
from nightlab.agents.bench_search.objective import Objective, SpentError
from nightlab.agents.bench_search.simulated import simulated
from nightlab.agents.bench_search.tables import Table, read
from nightlab.agents.policy.actor_critic import ActorCritic
from nightlab.agents.policy.batch import Batch, Replay
from nightlab.agents.policy.interface import Record
from nightlab.agents.policy.loss import Terms
from nightlab.agents.policy.network import Weights, fresh
from nightlab.agents.policy.stored import write
from nightlab.agents.policy.training import Adam, judged, train
from nightlab.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is simulated and trained; fixed on NAS-Bench-201 CIFAR-10 only."""

    rounds: int = 6
    campaigns: int = 48
    """Per round."""
    recorded_share: float = 0.25
    """Share of the campaigns that run on recorded tables, where some are given."""
    night_share: float = 0.5
    """Share of all campaigns that are made-up nights: one baseline, many parts, noisy looks."""
    steps: int = 200
    """Gradient steps per round."""
    size: int = 128
    rate: float = 1e-3
    held: int = 8
    """Campaigns of a round that only the gate sees."""
    kept_rounds: int = 4
    """Latest rounds in the buffer."""
    seed: int = 1
    workers: int = 1


def campaign_records(
    table: Table, weights: Weights | None, seed: Sequence[int], name: str
) -> list[Record]:
    """One campaign's records; its budget is drawn between 40 and 200 looks."""
    rng = np.random.default_rng([*seed, 3])
    budget = float(rng.integers(40, 201))
    noisy = table.seeds is not None and bool(rng.random() < 0.5)
    objective = Objective(table, budget, np.random.default_rng([*seed, 4]), noisy)
    policy = ActorCritic(weights)
    records: list[Record] = []
    # a campaign may end in its first looks: the best program can be among the random ones
    with contextlib.suppress(SpentError, UsageError):
        campaign = Campaign(name, objective, rng, starts=int(rng.integers(1, 13)))
        records = campaign.records
        while True:
            campaign.step(policy)
    return records


@dataclass(frozen=True)
class _Job:
    table: Table | int | None
    """None for a night."""
    weights: Weights | None
    seed: tuple[int, int, int]
    name: str


def _run(job: _Job) -> list[Record]:
    if job.table is None:
        first, number, place = job.seed
        seed = first * 100_000 + number * 1_000 + place
        return night_records(ActorCritic(job.weights), seed, job.name)
    table = simulated(job.table) if isinstance(job.table, int) else job.table
    return campaign_records(table, job.weights, job.seed, job.name)


def gather(
    plan: Plan, number: int, weights: Weights | None, recorded: Sequence[Table]
) -> list[list[Record]]:
    """One round's campaigns, a list of records each."""
    rng = np.random.default_rng([plan.seed, number, 5])
    jobs = []
    for place in range(plan.campaigns):
        own = (plan.seed, number, place)
        table: Table | int | None = plan.seed * 100_000 + number * 1_000 + place
        if rng.random() < plan.night_share:
            table = None
        elif recorded and rng.random() < plan.recorded_share:
            table = recorded[int(rng.integers(len(recorded)))]
        jobs.append(_Job(table, weights, own, f"r{number}c{place}"))
    if plan.workers == 1:
        return [_run(job) for job in jobs]
    with ProcessPoolExecutor(plan.workers) as pool:
        return list(pool.map(_run, jobs))


def pretrain(plan: Plan, recorded: Sequence[Table], out: Path | None = None) -> Weights:
    """Weights after all rounds; each round's are written beside ``out`` as they come."""
    candidate = fresh(plan.seed)
    weights: Weights | None = None
    buffer: list[list[list[Record]]] = []
    rng = np.random.default_rng([plan.seed, 6])
    moments = Adam.start(candidate)
    for number in range(plan.rounds):
        began = time.perf_counter()
        campaigns = gather(plan, number, weights, recorded)
        buffer = [*buffer, campaigns[plan.held :]][-plan.kept_rounds :]
        replay = Replay()
        known = [record for old in buffer for one in old for record in one]
        rewards, gains = replay.targets(known)
        rate = plan.rate * (1.0 - 0.7 * number / plan.rounds)
        parts: dict[str, float] = {}
        for _ in range(plan.steps):
            picked = rng.choice(len(known), size=min(plan.size, len(known)), replace=False)
            batch = replay.batch([known[p] for p in picked], rewards[picked], gains[picked])
            moments, parts = train(candidate, moments, batch, rate, Terms(pessimism=0.0))
        judgement, ess = judged(candidate, weights, held_out(campaigns[: plan.held]), rng)
        weights = {name: array.copy() for name, array in candidate.items()}
        line = f"round {number}: {len(known)} decisions, gate: {judgement.reason}, ess {ess:.0f}"
        numbers = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
        print(line, numbers, f"{time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if out is not None:
            write(out.with_suffix(f".r{number}.safetensors"), weights)
    if weights is None:
        raise ValueError("a plan of no rounds trains nothing")
    return weights


def held_out(campaigns: Iterable[list[Record]]) -> Batch:
    """Held-out campaigns as one batch."""
    replay = Replay()
    known = [record for one in campaigns for record in one]
    return replay.batch(known, *replay.targets(known))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; writes the weights with the notes that the harness checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--train", nargs="*", default=[], help="recorded tables to learn on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--campaigns", type=int, default=Plan.campaigns)
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args(arguments)
    if given.train and given.tables is None:
        parser.error("--train needs --tables")
    plan = replace(
        Plan(),
        seed=given.seed,
        rounds=given.rounds,
        campaigns=given.campaigns,
        steps=given.steps,
        workers=given.workers,
    )
    weights = pretrain(plan, [read(name, given.tables) for name in given.train], given.out)
    trained_on = ",".join(["simulated", "nights", *given.train])
    command = (
        f"python -m nightlab.agents.bench_search.pretrain --train {' '.join(given.train)} "
        f"--seed {plan.seed} --rounds {plan.rounds} --campaigns {plan.campaigns} "
        f"--steps {plan.steps}"
    )
    about = {"version": f"warm-{plan.seed}", "trained_on": trained_on, "command": command}
    write(given.out, weights, about)


if __name__ == "__main__":
    main()
