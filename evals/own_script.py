"""How a task with a training script of its own is described in its ``task.toml``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTPUT = re.compile(r"[A-Za-z0-9_-]+\.(safetensors|json)")


@dataclass(frozen=True, kw_only=True)
class Script:
    """How a task with a training script of its own is trained and scored."""

    trainer: str
    """The file that is run; it trains, and its ``predictor`` answers."""
    frozen: Mapping[str, str]
    """File name to text: what lies beside the editable files; with the trainer, unless that is
    editable."""
    outputs: tuple[str, ...]
    """Every file that training leaves."""
    answers: Mapping[str, tuple[int, ...]]
    """Name of each answer to its shape for one row."""
    scorer: Path
    """The person's trusted code; it runs on the host."""


def read(folder: Path, table: Mapping[str, Any]) -> Script:
    """The script of a ``task.toml``'s table. Raises ValueError, KeyError or OSError."""
    trainer = str(table["trainer"])
    wanted = [*([] if trainer in table["editable"] else [trainer]), *table.get("frozen", [])]
    frozen = {name: (folder / name).read_text() for name in wanted}
    if both := sorted(set(frozen) & set(table["editable"])):
        raise ValueError(f"{', '.join(both)} cannot be editable and frozen at once")
    outputs = tuple(str(name) for name in table["outputs"])
    if not outputs or not all(OUTPUT.fullmatch(name) for name in outputs):
        raise ValueError("outputs must be plain names that end in .safetensors or .json")
    scorer = folder / str(table["scorer"])
    if not scorer.is_file():
        raise ValueError(f"there is no scorer {scorer.name} beside it")
    answers = {
        str(name): tuple(int(size) for size in shape) for name, shape in table["answers"].items()
    }
    if not answers:
        raise ValueError("[answers] must name what the trainer's predictor answers")
    return Script(
        trainer=trainer,
        frozen=frozen,
        outputs=outputs,
        answers=answers,
        scorer=scorer,
    )
