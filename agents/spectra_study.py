"""Do spectra foretell? An ablation on the experiments that a ledger has recorded.

    python -m nightlab.agents.spectra_study HOME [HOME ...] [--json]

A HOME is a folder of state (NIGHTLAB_HOME); every campaign in its ledger counts.

Two questions. *Own end*: from the first third of a trial's reported curve, how well is its score
foretold, without and with the spectra reported by then? *Value*: from what the policy logged of
the options it chose, how well is the child's score, less the baseline's, foretold, without and with
the parent's spectral features? Errors are of ridge regression on whole programs left out.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightlab.agents import spectra
from nightlab.agents.policy.attempts import EXTRA_FEATURES
from nightlab.agents.policy.features import PARENT
from nightlab.errors import UsageError
from nightlab.evals.nerve.ablation import Ablation, ablate
from nightlab.evals.nerve.thirds import METRICS, THIRDS, Summary, summaries
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Arm, Experiment, Trial
from nightlab.vocabulary import Purpose

Floats = NDArray[np.float64]
KNOWN = 1 / 3
"""Share of the budget whose curve and spectra are known."""
PLACES = (0.08, 0.16, 0.24, KNOWN)
"""Where the curve is read, as shares of the budget."""
FEWEST = 12
"""Rows below which nothing is said."""


@dataclass(frozen=True)
class Row:
    """One prediction: what was known, what the spectra said, and what came of it."""

    plain: tuple[float, ...]
    spectra: tuple[float, ...]
    target: float
    group: str


def own_end(ledger: Ledger, campaign: str) -> list[Row]:
    """A row for each scored trial on the cheapest rung that left a curve."""
    metric = ledger.campaign(campaign).objective.metric
    rung = ledger.rungs(campaign)[0]
    rows = []
    for trial in ledger.trials(campaign=campaign):
        value = trial.value(metric)
        if trial.rung != rung or value is None or trial.purpose not in USED:
            continue
        if row := _own_row(ledger, trial, value):
            rows.append(row)
    return rows


USED = (Purpose.NOISE, Purpose.SCREEN)


def _own_row(ledger: Ledger, trial: Trial, value: float) -> Row | None:
    file = trial.artifacts.get("curve.jsonl")
    if file is None:
        return None
    text = ledger.artifacts.get(file.sha256).decode(errors="replace")
    points = [json.loads(line) for line in text.splitlines()]
    if len(points) < 2 or points[-1]["progress"] < KNOWN:
        return None
    progress = [point["progress"] for point in points]
    losses = np.interp(PLACES, progress, [point["loss"] for point in points])
    step = float(np.interp(KNOWN, progress, [point["step"] for point in points]))
    log = spectra.read(ledger.artifacts, trial)
    seen = [s for s in summaries(log.readings) if s.step <= step] if log else []
    return Row(
        plain=(*losses.tolist(), float(np.log(step))),
        spectra=_numbers(seen[-1] if seen else None),
        target=value,
        group=trial.program,
    )


def _numbers(now: Summary | None) -> tuple[float, ...]:
    cells = [(where, metric) for where in THIRDS for metric in METRICS]
    return tuple(now.values.get(cell, np.nan) if now else np.nan for cell in cells)


def value_rows(ledger: Ledger, campaign: str) -> list[Row]:
    """A row for each scored experiment whose decision logged features of its options; its target is
    the child's score less the baseline's of the campaign, since machines differ."""
    metric = ledger.campaign(campaign).objective.metric
    rung = ledger.rungs(campaign)[0]
    at = [PARENT.index(name) for name in EXTRA_FEATURES if name.startswith("nerve")]
    tried = ledger.experiments(campaign)
    base = [v for e in tried if e.number == 0 for v in _scores(ledger, e, rung, metric)]
    rows = []
    for experiment in tried if base else ():
        values = _scores(ledger, experiment, rung, metric)
        chosen = _chosen(ledger, experiment.id)
        if experiment.number == 0 or not values or len(chosen) < 2:
            continue
        parent = chosen["parent"]
        heads = [number for head in sorted(chosen) for number in chosen[head]]
        place = sum(len(chosen[head]) for head in sorted(chosen) if head < "parent")
        told = [place + number for number in at]
        plain = tuple(n for k, n in enumerate(heads) if k not in told)
        lead = float(np.mean(values) - np.mean(base))
        rows.append(Row(plain, tuple(parent[n] for n in at), lead, str(experiment.program)))
    return rows


def _scores(ledger: Ledger, experiment: Experiment, rung: str, metric: str) -> list[float]:
    """Of an experiment's own program on a rung, not of the incumbent beside it."""
    trials = [t for t in ledger.trials(experiment=experiment.id) if t.rung == rung]
    own = [t for t in trials if t.arm is Arm.CANDIDATE and t.program == experiment.program]
    return [v for t in own if (v := t.value(metric)) is not None]


def _chosen(ledger: Ledger, experiment: str) -> dict[str, list[float]]:
    """Head to the logged features of the option that was taken; heads without any are left out."""
    found: dict[str, list[float]] = {}
    for row in ledger.decisions(experiment):
        number, _, head = row.head.partition(":")
        logged = row.features if isinstance(row.features, Mapping) else {}
        table, index = logged.get("features"), logged.get("index")
        if number.isdigit() and isinstance(table, Sequence) and table and isinstance(index, int):
            taken = table[index]
            if isinstance(taken, Sequence) and head in ("parent", "part"):
                found[head] = [float(n) for n in taken if isinstance(n, int | float)]
    return found if "parent" in found else {}


def judged(rows: Sequence[Row]) -> Ablation:
    """The ablation of some rows; UsageError where they are too few to say anything."""
    if len({row.group for row in rows}) < FEWEST:
        raise UsageError(f"{len(rows)} rows of {len({r.group for r in rows})} programs are too few")
    return ablate(
        np.array([row.plain for row in rows]),
        np.array([row.spectra for row in rows]),
        np.array([row.target for row in rows]),
        [row.group for row in rows],
    )


def recorded(homes: Sequence[Path]) -> dict[str, list[Row]]:
    """The rows of both questions, over every campaign of some homes."""
    rows: dict[str, list[Row]] = {"own end": [], "value": []}
    for home in homes:
        with Ledger.open(f"sqlite:///{home / 'ledger.db'}", home / "artifacts") as ledger:
            for campaign in ledger.campaigns():
                if ledger.rungs(campaign.id):
                    rows["own end"] += own_end(ledger, campaign.id)
                    rows["value"] += value_rows(ledger, campaign.id)
    return rows


def main() -> None:
    """Print both ablations."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("homes", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    document: dict[str, object] = {}
    for name, rows in recorded(asked.homes).items():
        try:
            found = judged(rows)
        except UsageError as reason:
            document[name], lines = {"refused": str(reason)}, [str(reason)]
        else:
            document[name], lines = asdict(found), found.lines("bits per byte")
        if not asked.json:
            print(f"{name}:", *lines, sep="\n  ")
    if asked.json:
        print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
