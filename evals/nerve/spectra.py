"""What ``nightlab spectra`` says: a table, a document and a picture of one or two models.

A model is a Hugging Face folder, a folder of its checkpoints, or the stored readings of an
experiment. A program with its checkpoint is foreign code: it is probed in a sandbox, and its
readings come here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

from nightlab.errors import UsageError
from nightlab.evals.nerve import hugging_face
from nightlab.evals.nerve.hugging_face import Probing
from nightlab.evals.nerve.plots import heat_maps, portrait
from nightlab.evals.nerve.probe import At, Report
from nightlab.evals.nerve.readings import Reading
from nightlab.evals.nerve.thirds import summaries
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


def folders(paths: Sequence[Path], data: Sequence[Path], out: Path, probing: Probing) -> Document:
    """Probe one or two model folders and draw them into ``out`` (a PNG).

    Folders of checkpoints are drawn layer by step, single models layer by rank. UsageError for a
    path that is neither.
    """
    if not 1 <= len(paths) <= 2:
        raise UsageError("give one model, or two to compare")
    names = _names(paths)
    series = [hugging_face.checkpoints(path) for path in paths]
    if all(series):
        runs: dict[str, list[Reading]] = {name: [] for name in names}
        for name, found in zip(names, series, strict=True):
            for step, folder in found:
                runs[name] += hugging_face.report(folder, data, probing, step)[0].readings
        return stored(runs, out)
    for path in paths:
        if not hugging_face.is_model_folder(path):
            raise UsageError(f"{path}: no model here (no config.json, no checkpoint-STEP folders)")
    reports, words = {}, {}
    for name, path in zip(names, paths, strict=True):
        reports[name], words[name] = hugging_face.report(path, data, probing)
    return at_rest(reports, out, words)


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


def table(report: Report) -> str:
    """A plain-text table of one probed model: a line for each feed-forward, ± 95 %."""
    head = f"{'layer':<7}{'where':<34}{'N':>6}{'D':>7}{'PR/D before':>16}{'PR/D after':>16}"
    lines = [head + f"{'gain':>8}{'EEE after':>11}{'JS':>8}{'PR out/D':>10}{'PR stream/D':>12}"]
    intervals = report.intervals()
    readings: dict[At, Reading] = {(r.layer, r.expert, r.path, r.place): r for r in report.readings}
    for each in report.found:
        at = [(each.layer, each.expert, each.path, p) for p in ("pre", "post", "out", "residual")]
        pre, post, out, stream = (readings.get(key) for key in at)
        numbers = intervals.get(at[1], {})
        expert = "" if each.expert is None else f".{each.expert}"
        lines.append(
            f"{each.layer}{expert:<6}{each.path[-33:]:<34}{post.n if post else 0:>6}{each.width:>7}"
            f"{_share(intervals.get(at[0], {}), pre):>16}{_share(numbers, post):>16}"
            f"{_value(numbers, 'pr_gain_corrected', '.2f'):>8}{_value(numbers, 'eee', '.3f'):>11}"
            f"{_value(numbers, 'js', '.3f'):>8}{_plain_share(out):>10}{_plain_share(stream):>12}"
        )
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
    error = f" ±{half:.3f}" if math.isfinite(half) else ""
    return f"{interval.value / reading.d:.3f}{error}"


def _plain_share(reading: Reading | None) -> str:
    if reading is None or reading.pr_corrected is None:
        return "-"
    return f"{reading.pr_corrected / reading.d:.3f}"


def _value(numbers: Mapping[str, Interval], name: str, form: str) -> str:
    return format(numbers[name].value, form) if name in numbers else "-"


def _names(paths: Sequence[Path]) -> list[str]:
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]
