"""What ``nightlab spectra`` says: a table, a document and a picture of one or two models.

A model is a Hugging Face folder, a folder of its checkpoints, or the stored readings of an
experiment. A program with its checkpoint is foreign code: it is probed in a sandbox, and its
readings come here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

from nightlab.errors import UsageError
from nightlab.evals.nerve import hugging_face
from nightlab.evals.nerve.hugging_face import Probing
from nightlab.evals.nerve.plots import heat_maps, portrait
from nightlab.evals.nerve.probe import At, Report
from nightlab.evals.nerve.readings import Reading
from nightlab.evals.nerve.table import SHOWN
from nightlab.evals.nerve.thirds import THIRDS, summaries
from nightlab.evals.nerve.trends import Interval


class Document(TypedDict, total=False):
    """The JSON form of an answer."""

    models: dict[str, dict[str, object]]
    difference: list[dict[str, object]]
    picture: str
    notes: list[str]


NOTES = [
    "Spectra are correlational: they can be raised without lowering the loss.",
    "Compare only at equal N and D; PR is corrected for finite samples, SE, EEE and JS are not.",
]


@dataclass(frozen=True)
class Subject:
    """One model that is asked about: at rest, or as a series over its training."""

    name: str
    about: str
    """What it was probed with, or whose word its readings are."""
    report: Report | None = None
    """Of a model at rest."""
    series: tuple[Reading, ...] = ()
    """Of a training run, by step; empty for a model at rest."""


def of_folder(path: Path, name: str, data: Sequence[Path], probing: Probing) -> Subject:
    """A Hugging Face model at rest, or the series that a folder of its checkpoints makes.

    MissingError without transformers; UsageError for a path that is neither.
    """
    if not hugging_face.is_model_folder(path) and (found := hugging_face.checkpoints(path)):
        series: list[Reading] = []
        about = ""
        for step, folder in found:
            report, about = hugging_face.report(folder, data, probing, step)
            series += report.readings
        return Subject(name, about, series=tuple(series))
    if not hugging_face.is_model_folder(path):
        raise UsageError(f"{path}: no model here (no config.json, no checkpoint-STEP folders)")
    report, about = hugging_face.report(path, data, probing)
    return Subject(name, about, report)


def answer(subjects: Sequence[Subject], out: Path) -> Document:
    """One model, or two compared, with their picture in ``out`` (a PNG).

    Series are drawn layer by step, models at rest layer by rank. UsageError for another number of
    subjects, or for a series beside a model at rest.
    """
    if not 1 <= len(subjects) <= 2:
        raise UsageError("give one model, or two to compare")
    if all(s.series for s in subjects):
        document = stored({s.name: s.series for s in subjects}, out)
        for subject in subjects:
            document["models"][subject.name]["about"] = subject.about
        return document
    reports = {s.name: s.report for s in subjects if s.report is not None}
    if len(reports) < len(subjects):
        run = next(s.name for s in subjects if s.report is None)
        raise UsageError(
            f"{run} is a series over steps and the other is a model at rest; "
            "give --data FILE to probe both at rest, or name one checkpoint of it"
        )
    return at_rest(reports, out, {s.name: s.about for s in subjects})


def at_rest(
    reports: Mapping[str, Report], out: Path, probed_with: Mapping[str, str] | None = None
) -> Document:
    """Document and portrait of one or two probed models."""
    models: dict[str, dict[str, object]] = {}
    for name, report in reports.items():
        models[name] = {
            "found": [asdict(each) for each in report.found],
            "probed_with": (probed_with or {}).get(name, ""),
            "batches": len(report.batches),
            "rows": _rows(report),
        }
    document = Document(models=models, picture=str(portrait(reports, out)), notes=list(NOTES))
    if len(reports) == 2:
        document["difference"] = _difference(*reports.values())
    return document


def stored(runs: Mapping[str, Sequence[Reading]], out: Path) -> Document:
    """Document and heat maps of one or two series of readings, as an experiment leaves them."""
    picture = heat_maps(runs, out)
    models: dict[str, dict[str, object]] = {}
    for name, readings in runs.items():
        models[name] = {
            "steps": sorted({r.step for r in readings}),
            "readings": [asdict(r) for r in readings],
            "thirds": [
                {"step": s.step, **{f"{m} {w}": v for (w, m), v in s.values.items()}}
                for s in summaries(readings)
            ],
        }
    return Document(models=models, picture=str(picture), notes=list(NOTES))


def series_table(readings: Sequence[Reading]) -> str:
    """A plain-text table of one run by depth third: its first, middle and last measured steps."""
    found = summaries(readings)
    kept = dict.fromkeys([0, len(found) // 3, 2 * len(found) // 3, len(found) - 1])
    lines = [f"{'step':>7} {'third':<6}" + "".join(f"{title:>11}" for _, title in SHOWN)]
    for summary in (found[at] for at in kept):
        for where in THIRDS:
            cells = [summary.values.get((where, metric)) for metric, _ in SHOWN]
            if any(cell is not None for cell in cells):
                shown = "".join(f"{'-' if c is None else format(c, '.4f'):>11}" for c in cells)
                lines.append(f"{summary.step:>7} {where:<6}{shown}")
    return "\n".join(lines)


def table(report: Report, *, wide: bool = True) -> str:
    """A plain-text table of one probed model: a line for each feed-forward, ± 95 %.

    What is not ``wide`` fits 80 columns.
    """
    wanted = [each for each in _COLUMNS if wide or each.narrow]
    lines = ["".join(each.fit(each.title) for each in wanted)]
    intervals = report.intervals()
    readings: dict[At, Reading] = {(r.layer, r.expert, r.path, r.place): r for r in report.readings}
    for each in report.found:
        at = [(each.layer, each.expert, each.path, p) for p in ("pre", "post", "out", "residual")]
        pre, post, out, stream = (readings.get(key) for key in at)
        numbers = intervals.get(at[1], {})
        cells = {
            "layer": f"{each.layer}" if each.expert is None else f"{each.layer}.{each.expert}",
            "where": each.path[-32:],
            "N": str(post.n if post else 0),
            "D": str(each.width),
            "PR/D before": _share(intervals.get(at[0], {}), pre),
            "PR/D after": _share(numbers, post),
            "gain": _value(numbers, "pr_gain_corrected", ".2f"),
            "EEE after": _value(numbers, "eee", ".3f"),
            "JS": _value(numbers, "js", ".3f"),
            "PR out/D": _plain_share(out),
            "PR stream/D": _plain_share(stream),
        }
        lines.append("".join(column.fit(cells[column.title]) for column in wanted))
    return "\n".join(lines)


class _Column(NamedTuple):
    title: str
    width: int
    narrow: bool = True
    left: bool = False

    def fit(self, text: str) -> str:
        return f"{text:<{self.width}}" if self.left else f"{text:>{self.width}}"


_COLUMNS = (
    _Column("layer", 7, left=True),
    _Column("where", 33, narrow=False, left=True),
    _Column("N", 6),
    _Column("D", 6),
    _Column("PR/D before", 16),
    _Column("PR/D after", 16),
    _Column("gain", 7),
    _Column("EEE after", 11),
    _Column("JS", 8),
    _Column("PR out/D", 10, narrow=False),
    _Column("PR stream/D", 12, narrow=False),
)


_COMPARED = ("pr_corrected", "entropy", "eee", "js")


def difference_table(document: Document) -> str:
    """The comparison of two models at rest in plain text; ``*`` where the intervals part."""
    rows = document.get("difference", [])
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        at = (str(row["layer"]), str(row["place"]))
        if row.get("number") in _COMPARED:
            mark = "*" if row["clear"] else " "
            cells.setdefault(at, {})[str(row["number"])] = f"{row['difference']:+.3f}{mark}"
    refused = sum("why_not" in row for row in rows)
    lines = ["second - first (* beyond both 95 % intervals)"]
    if cells:
        lines.append(f"{'layer':<7}{'place':<10}" + "".join(f"{n:>14}" for n in _COMPARED))
    lines += [
        f"{layer:<7}{place:<10}" + "".join(f"{found.get(n, '- '):>14}" for n in _COMPARED)
        for (layer, place), found in cells.items()
    ]
    if refused:
        lines.append(f"{refused} places have another (N, D) and are not compared")
    return "\n".join(lines)


def _rows(report: Report) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    intervals = report.intervals()
    for reading in report.readings:
        at = (reading.layer, reading.expert, reading.path, reading.place)
        numbers = {name: _json(i) for name, i in intervals.get(at, {}).items()}
        rows.append({**asdict(reading), "over_batches": numbers})
    return rows


def _json(interval: Interval) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in interval]


def _difference(first: Report, second: Report) -> list[dict[str, object]]:
    """Second less first, where layer, place and size match; ``clear`` where intervals part."""
    rows: list[dict[str, object]] = []
    ours, theirs = _by_position(first), _by_position(second)
    for at, a in ours.items():
        b = theirs.get(at)
        if b is None:
            continue
        if a[0].size != b[0].size:
            rows.append({"layer": at[0], "place": at[3], "why_not": "different (N, D)"})
            continue
        for name in sorted(a[1].keys() & b[1].keys()):
            x, y = a[1][name], b[1][name]
            clear = x.high < y.low or y.high < x.low
            rows.append({"layer": at[0], "expert": at[1], "place": at[3], "number": name,
                         "difference": y.value - x.value, "clear": clear})  # fmt: skip
    return rows


_Position = tuple[int, int | None, int, str]


def _by_position(report: Report) -> dict[_Position, tuple[Reading, Mapping[str, Interval]]]:
    """Readings by layer, expert, number within the layer and place, whatever their names."""
    intervals = report.intervals()
    found: dict[_Position, tuple[Reading, Mapping[str, Interval]]] = {}
    paths: dict[tuple[int, int | None], list[str]] = {}
    for reading in report.readings:
        within = paths.setdefault((reading.layer, reading.expert), [])
        if reading.path not in within:
            within.append(reading.path)
        at = (reading.layer, reading.expert, within.index(reading.path), reading.place)
        key = (reading.layer, reading.expert, reading.path, reading.place)
        found[at] = (reading, intervals.get(key, {}))
    return found


def _share(numbers: Mapping[str, Interval], reading: Reading | None) -> str:
    interval = numbers.get("pr_corrected")
    if reading is None or interval is None or not reading.d:
        return "-"
    half = (interval.high - interval.value) / reading.d
    error = f" ±{half:.4f}" if math.isfinite(half) else ""
    return f"{interval.value / reading.d:.4f}{error}"


def _plain_share(reading: Reading | None) -> str:
    if reading is None or reading.pr_corrected is None:
        return "-"
    return f"{reading.pr_corrected / reading.d:.4f}"


def _value(numbers: Mapping[str, Interval], name: str, form: str) -> str:
    return format(numbers[name].value, form) if name in numbers else "-"
