"""The ledger's values as JSON documents, field for field."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path

from nightlab.memory.records import JSON, Call, Decision, Experiment, Trial
from nightlab.memory.report.spectra import Told


def jsonable(value: object) -> JSON:
    """JSON's own types: a dataclass by its fields, a time in ISO 8601, null for NaN."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if is_dataclass(value):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, str | Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def experiment_document(
    experiment: Experiment,
    trials: list[Trial],
    decisions: list[Decision],
    files: Mapping[str, str],
    calls: Sequence[Call] = (),
    spectra: Told | None = None,
) -> dict[str, JSON]:
    """What ``nightlab show EXPERIMENT --json`` prints; ``files`` is its program's text."""
    return {
        **_fields(experiment),
        "files": dict(files),
        "trials": [trial_document(trial) for trial in trials],
        "decisions": [jsonable(decision) for decision in decisions],
        "calls": [jsonable(call) for call in calls],
        "spectra": jsonable(spectra.document) if spectra else None,
    }


def trial_document(trial: Trial) -> dict[str, JSON]:
    """What ``nightlab show TRIAL --json`` prints."""
    return {**_fields(trial), "overhead_seconds": trial.overhead_seconds}


def _fields(value: Experiment | Trial) -> dict[str, JSON]:
    return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
