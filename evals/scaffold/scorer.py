"""The trusted scorer: makes the data and measures predictions. It runs on the host."""

from pathlib import Path
from typing import Any

import numpy as np

CLASSES, TURNS = 3, 3.0


def prepare(folder: Path, data: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """The three splits as named arrays. ``folder`` is the task's own, ``data`` its [data] table.

    Only ``train`` is ever shown to a sandbox, as --data/train.safetensors. Make the splits the
    same way every time: their hash is stored with every campaign.
    """
    rng = np.random.default_rng(0)
    return {
        "train": spirals(data["train_rows"], data["noise"], rng),
        "search": spirals(data["search_rows"], data["noise"], rng),
        "holdout": spirals(data["holdout_rows"], data["noise"], rng),
    }


def score(ask: Any, split: dict[str, np.ndarray]) -> dict[str, float]:
    """Every metric of task.toml. ``ask`` sends inputs to the trained program and returns its
    answers, one for each row; what is not sent, it never sees."""
    logits = ask({"x": split["x"]})["logits"].astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rows = np.arange(len(logp))
    return {
        "val_loss": float(-logp[rows, split["y"]].mean()),
        "accuracy": float((logp.argmax(1) == split["y"]).mean()),
    }


def spirals(rows: int, noise: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Points (rows, 2) on interleaved spirals, and their classes (rows,)."""
    classes = rng.integers(0, CLASSES, rows)
    along = rng.uniform(0.15, 1.0, rows)
    angle = 2 * np.pi * (classes / CLASSES + TURNS * along)
    points = along[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    points += rng.normal(0, noise, points.shape)
    return {"x": points.astype(np.float32), "y": classes.astype(np.int64)}
