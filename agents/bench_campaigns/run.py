"""Run the campaigns of the bench: every arm on every pair's seed, each in a folder of its own.

A campaign that is finished is not run again and one that was killed goes on, so the whole bench
may be stopped at any time and begun again with the same settings.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from nightlab.agents import start
from nightlab.agents.bench_campaigns.arms import ARMS, BEGINNINGS
from nightlab.agents.carry import stored
from nightlab.agents.start import Order
from nightlab.errors import UsageError
from nightlab.evals.task import SHIPPED, Task, load
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import CampaignStatus
from nightlab.memory.report.summary import summarise
from nightlab.sandbox.protocol import Sandbox
from nightlab.vocabulary import Beginning, Budget, Objective, Verdict

CAMPAIGN = "c1"
"""Every campaign of the bench is alone in its ledger: an arm must not learn from another's."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What fixes the bench's outcome, up to the machine's noise."""

    arms: tuple[str, ...]
    pairs: int
    trials: int
    """Budget of each campaign: noise floor, confirmations and closing comparison included."""
    rung: str = "small"
    """The only rung: screening and confirmation both run on it."""
    task: str = "byte_lm"
    workers: int = 2
    first_seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One campaign."""

    arm: str
    pair: int
    seed: int
    gain_percent: float
    """Of the closing comparison on the hold-out: the winner over the baseline on the baseline's
    seeds. 0 where nothing was confirmed, as the baseline is then handed over."""
    search_gain_percent: float
    """The same on the search split."""
    confirmed: int
    experiments: int
    unfit: int
    """Invalid, failed or rejected."""
    trials: int
    edits: tuple[str, ...]
    """Of the program handed over, from the baseline."""
    wall_seconds: float
    cpu_seconds: float


def jobs(settings: Settings) -> Iterator[tuple[int, str]]:
    """Pair by pair, the arms in another order each time, so that no arm is always first."""
    for pair in range(settings.pairs):
        turn = pair % len(settings.arms)
        for arm in (*settings.arms[turn:], *settings.arms[:turn]):
            yield pair, arm


def run(
    settings: Settings, out: Path, home: Path, sandbox: Sandbox, say: Callable[[str], None]
) -> list[Row]:
    """Rows of all campaigns, run or read; ``home`` holds the corpus.

    Raises:
        UsageError: ``out`` holds campaigns of other settings, or a campaign was stopped.
    """
    _remember(settings, out)
    task = one_rung(settings.task, settings.rung, out / "task")
    todo, rows, took = list(jobs(settings)), [], []
    for done, (pair, arm) in enumerate(todo, 1):
        began = time.monotonic()
        row, ran = campaign(settings, task, pair, arm, out, home, sandbox)
        rows.append(row)
        said = f"{done}/{len(todo)} {arm}, pair {pair + 1}: {row.gain_percent:.2f} % on hold-out"
        if ran:
            took.append(time.monotonic() - began)
            left = sum(took) / len(took) * (len(todo) - done)
            said += f", {took[-1]:.0f} s, at most {left / 60:.0f} min left"
        say(said)
    return rows


def campaign(
    settings: Settings, task: Path, pair: int, arm: str, out: Path, home: Path, sandbox: Sandbox
) -> tuple[Row, bool]:
    """One campaign's row, and whether anything was run for it."""
    folder = out / f"{arm}-{pair + 1}"
    folder.mkdir(parents=True, exist_ok=True)
    _share(folder / "data", home / "data")
    seed = settings.first_seed + pair
    with Ledger.open(f"sqlite:///{folder}/ledger.db", folder / "artifacts") as ledger:
        known = ledger.campaigns()
        ran = not known or known[0].status is not CampaignStatus.FINISHED
        if ran:
            _finish(settings, load(str(task)), task, seed, arm, ledger, sandbox, folder)
        return row_of(ledger, arm, pair, seed), ran


def _finish(
    settings: Settings,
    task: Task,
    place: Path,
    seed: int,
    arm: str,
    ledger: Ledger,
    sandbox: Sandbox,
    folder: Path,
) -> None:
    """Begin the campaign or take it up, and run it to its end."""
    policy = None
    if ledger.campaigns():
        supervisor = start.resume(CAMPAIGN, ledger, sandbox, folder)
        policy = stored(folder, CAMPAIGN) if arm in BEGINNINGS else None
    else:
        objective = Objective(
            metric=task.metric,
            direction=task.direction,
            budget=Budget(trials=settings.trials),
        )
        order = Order(
            goal=f"{arm}: better {task.metric} in {settings.trials} trials",
            objective=objective,
            task=str(place),
            workers=settings.workers,
            seed=seed,
            policy=BEGINNINGS.get(arm, Beginning.BANDIT),
        )
        supervisor = start.begin(order, ledger, sandbox, folder)
    supervisor.policy = policy or ARMS[arm](task.baseline)
    try:
        status = supervisor.run()
    finally:
        ledger.release_lease(supervisor.lab.lease)
    if status is not CampaignStatus.FINISHED:
        raise UsageError(f"stopped in {folder.name}: the same command goes on from there")


def row_of(ledger: Ledger, arm: str, pair: int, seed: int) -> Row:
    """What a finished campaign came to."""
    found = summarise(ledger, CAMPAIGN)
    best = found.best
    won = best is not None and best.experiment.number > 0
    held = best.holdout_gain_percent if best is not None and won else None
    searched = best.gain_percent if best is not None and won else None
    unfit = (Verdict.INVALID, Verdict.FAILED, Verdict.REJECTED)
    return Row(
        arm=arm,
        pair=pair,
        seed=seed,
        gain_percent=held.value if held else 0.0,
        search_gain_percent=searched.value if searched else 0.0,
        confirmed=found.counts[Verdict.CONFIRMED],
        experiments=sum(found.counts.values()),
        unfit=sum(found.counts[verdict] for verdict in unfit),
        trials=found.spent.trials,
        edits=best.edits if best is not None else (),
        wall_seconds=found.spent.wall_seconds,
        cpu_seconds=found.spent.cpu_seconds,
    )


def one_rung(name: str, rung: str, folder: Path) -> Path:
    """A copy of a task that has only this rung. Raises UsageError where it has none of the name."""
    task = load(name)
    task.rung(rung)
    if not folder.exists():
        source = Path(name) if "/" in name else SHIPPED / name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__", "__init__.py"))
        toml = folder / "task.toml"
        blocks = re.split(r"(?m)^(?=\[\[?\w)", toml.read_text())
        kept = [
            block
            for block in blocks
            if not block.startswith("[[rungs]]") or f'name = "{rung}"' in block
        ]
        toml.write_text("".join(kept))
    return folder


def _share(link: Path, data: Path) -> None:
    """One corpus for all campaigns."""
    data.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(data.absolute(), target_is_directory=True)


def _remember(settings: Settings, out: Path) -> None:
    """Refuse to mix campaigns of different settings; more pairs and other arms may be added."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "settings.json"
    fixed = {k: v for k, v in asdict(settings).items() if k not in ("arms", "pairs")}
    known = json.loads(path.read_text()) if path.is_file() else fixed
    for name, value in fixed.items():
        if known.get(name) != value:
            raise UsageError(
                f"{out} holds campaigns with {name} {known.get(name)}, not {value}: "
                "give another --out"
            )
    path.write_text(json.dumps(fixed))
