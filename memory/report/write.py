"""Writes a campaign's report: ``report.md``, ``report.json`` and ``curve.png`` in one folder."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from nightlab.errors import LedgerError, boundary
from nightlab.memory.database import plain
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import JSON
from nightlab.memory.report import aborts, costs, front_plot, spectra, words
from nightlab.memory.report.details import Branch, Details, Tried, detail
from nightlab.memory.report.front import Front, front, table
from nightlab.memory.report.plot import draw
from nightlab.memory.report.summary import document as summary_document
from nightlab.memory.report.summary import interval_document
from nightlab.vocabulary import Verdict

SPECTRA = "spectra.png"
FRONT = "front.png"


@dataclass(frozen=True, kw_only=True)
class Written:
    """Where a report is."""

    markdown: Path
    json: Path
    plot: Path


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report that the ledger alone cannot tell."""

    title: str
    key: str
    """Name in the JSON document."""
    text: str
    """Markdown without a heading."""
    document: JSON


def write_report(
    ledger: Ledger, campaign: str, reports: Path, sections: Sequence[Section] = ()
) -> Written:
    """Write the report of a campaign, finished or not, under ``reports/<campaign>/``.

    Raises UsageError for an unknown campaign, LedgerError when the folder cannot be written.
    """
    details = detail(ledger, campaign)
    shown = front(ledger, campaign)
    paid = costs.costs(ledger, details.summary)
    sections = [
        *([_front(shown)] if shown else []),
        *([_costs(paid)] if paid else []),
        *sections,
    ]
    folder = reports / campaign
    written = Written(
        markdown=folder / "report.md", json=folder / "report.json", plot=folder / "curve.png"
    )
    with boundary(LedgerError, f"writing the report to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / ".curve.png"
        draw(details, draft)
        os.replace(draft, written.plot)
        if shown is not None:
            draft = folder / ".front.png"
            front_plot.draw(shown, draft, f"{campaign}: {details.summary.campaign.goal}")
            os.replace(draft, folder / FRONT)
        if details.spectra is not None:
            draft = folder / ".spectra.png"
            spectra.draw(details.spectra, draft)
            os.replace(draft, folder / SPECTRA)
        _replace(written.markdown, markdown(details, written.plot.name, sections))
        document = {
            **report_document(details, written.markdown),
            **{section.key: section.document for section in sections},
        }
        text = json.dumps(plain(document), indent=2)
        _replace(written.json, text + "\n")
    return written


def _front(shown: Front) -> Section:
    """The Pareto front, with its picture."""
    document: list[JSON] = [
        {
            "experiment": point.experiment.id,
            "on_front": point.on_front,
            "trials": list(point.trials),
            **dict(zip(shown.metrics, point.values, strict=True)),
        }
        for point in shown.points
    ]
    picture = f"![{shown.metrics[0]} against what else the goal names]({FRONT})"
    text = f"{picture}\n\n{table(shown)}"
    return Section(title="The Pareto front", key="front", text=text, document=document)


def _costs(paid: costs.Costs) -> Section:
    """What the winner costs beside the baseline."""
    text, document = costs.table(paid), costs.document(paid)
    return Section(title="What it costs", key="costs", text=text, document=document)


def markdown(details: Details, plot: str, sections: Sequence[Section] = ()) -> str:
    """The report as Markdown; ``plot`` is the picture's path from the report's folder."""
    environment = Environment(
        loader=PackageLoader("nightlab.memory.report", "."),
        undefined=StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template("report.md.j2").render(
        sections=sections, **_context(details, plot)
    )


def report_document(details: Details, report: Path) -> dict[str, JSON]:
    """The summary's document and the report's tables."""
    return {
        **summary_document(details.summary),
        "report": str(report),
        "confirmed": [
            {
                "experiment": row.experiment.id,
                "edits": list(row.experiment.edits),
                "hypothesis": row.experiment.hypothesis,
                "estimate": vars(row.experiment.estimate),
                **interval_document(row.level),
            }
            for row in details.improvements
        ],
        "failures": [{**vars(failure)} for failure in details.failures],
        "parts": [_tried(tried) for tried in details.parts],
        "operators": [_tried(tried) for tried in details.operators],
        "lineage": [
            {
                "experiment": branch.experiment.id,
                "parent": branch.experiment.parent,
                "depth": branch.depth,
                "verdict": branch.experiment.verdict,
                "on_winning_line": branch.on_winning_line,
            }
            for branch in details.tree
        ],
        "diff": details.patch,
        "spectra": details.spectra.document if details.spectra else None,
        "reproduce": list(details.reproduce),
    }


def _tried(tried: Tried) -> dict[str, JSON]:
    return {
        "name": tried.name,
        "experiments": tried.experiments,
        "screened": tried.screened,
        "confirmed": tried.confirmed,
        "unfit": tried.unfit,
        "best": tried.best.id if tried.best else None,
        "best_gain": tried.best.estimate.gain if tried.best else None,
        "best_gain_low": tried.best.estimate.gain_low if tried.best else None,
    }


def _context(details: Details, plot: str) -> Mapping[str, object]:
    summary = details.summary
    objective = summary.campaign.objective
    best = summary.best.experiment if summary.best else None
    longest = max((len(run) for run in _backticks(details.patch)), default=0)
    return {
        "d": details,
        "s": summary,
        "c": summary.campaign,
        "objective": objective,
        "winner": best if best and best.number > 0 else None,
        "baseline_id": f"{summary.campaign.id}-0",
        "plot": plot,
        "spectra": details.spectra,
        "spectra_titles": [title for _, title in spectra.SHOWN],
        "spectra_plot": SPECTRA,
        "target": words.reached(summary),
        "goal_target": words.target(objective),
        "budget": words.budget(objective.budget),
        "usage": words.usage(summary, objective.budget),
        "counted": words.counted(summary.counts, summary.under_way) + ".",
        "aborted": aborts.described(summary.aborts),
        "tried_count": sum(summary.counts.values()),
        "fence": "`" * max(3, longest + 1),
        "branch_text": branch_text,
        "cell": cell,
        "level": words.level,
        "percent": words.percent,
        "ranged": words.ranged,
        "signed": words.signed,
        "time": words.time,
    }


def branch_text(branch: Branch) -> str:
    """One line of the lineage."""
    experiment = branch.experiment
    name = f"**{experiment.id}**" if branch.on_winning_line else experiment.id
    text = f"{name} {cell(words.title(experiment))}"
    if experiment.number == 0:
        return text
    gain = experiment.estimate.gain
    verdict = str(experiment.verdict or "under way")
    shown = experiment.verdict in (Verdict.CONFIRMED, Verdict.SCREENED) and gain is not None
    return f"{text} ({verdict}, {words.signed(gain)})" if shown else f"{text} ({verdict})"


def cell(text: object) -> str:
    """Foreign text on one line, with nothing in it that Markdown or HTML would act on."""
    line = " ".join(str(text).split())
    for mark in "\\`*_[]|<>":
        line = line.replace(mark, "\\" + mark if mark not in "<>" else f"&{_NAMES[mark]};")
    return line


_NAMES = {"<": "lt", ">": "gt"}


def _backticks(text: str) -> list[str]:
    runs, run = [], ""
    for letter in text + " ":
        if letter == "`":
            run += letter
        elif run:
            runs.append(run)
            run = ""
    return runs


def _replace(path: Path, text: str) -> None:
    """Write whole or not at all."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
