"""A person's own training script inside the sandbox, and the predictions of what it trained.

The script runs as ``python SCRIPT --data FOLDER --out FOLDER --seed N --budget-seconds S`` would,
in this warm process. In another sandbox, without data, its function ``predictor(out)`` is asked for
the predictions: it reads what was trained from ``out`` and returns a function of named tensors.
"""

import os
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nightlab.sandbox.guest.wire import Array

Predict = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def folder_of(files: Mapping[str, str]) -> Path:
    """The files in a fresh folder, from which they can import each other."""
    folder = Path(tempfile.mkdtemp(prefix="script-"))
    for name, text in files.items():
        if "/" in name or name.startswith("."):
            raise ValueError(f"a task's files have plain names, not {name!r}")
        (folder / name).write_text(text)
    sys.path.insert(0, str(folder))
    return folder


def train(script: Path, job: Mapping[str, Any]) -> None:
    """Run the script as its command line would; raises where it fails."""
    torch.manual_seed(job["seed"])
    arguments = {
        "--data": job["data"],
        "--out": job["out"],
        "--seed": job["seed"],
        "--budget-seconds": job["budget_seconds"],
    }
    sys.argv = [str(script), *(str(part) for pair in arguments.items() for part in pair)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            raise RuntimeError(f"{script.name} exited with {end.code}") from None


def smoke(script: Path, job: Mapping[str, Any]) -> None:
    """Train with no budget at all, and look for the outputs; leaves the output folder empty."""
    out = Path(tempfile.mkdtemp(prefix="smoke-"))
    train(script, {**job, "out": str(out), "budget_seconds": 0.0})
    missing = [name for name in job["outputs"] if not (out / name).is_file()]
    extra = [path.name for path in out.iterdir() if path.name not in job["outputs"]]
    if missing or extra:
        left = ", ".join(sorted(os.listdir(out))) or "nothing"
        raise ValueError(
            f"with a budget of 0 seconds {script.name} left {left} in --out; task.toml lists "
            f"{', '.join(job['outputs'])} as outputs"
        )
    predictor(script, out)
    shutil.rmtree(out, ignore_errors=True)


def predictor(script: Path, out: Path) -> Predict:
    """The script's ``predictor`` of what was trained."""
    made = runpy.run_path(str(script), run_name="predictor")["predictor"](out)
    if not callable(made):
        raise TypeError(f"predictor(out) of {script.name} returned no function")
    predict: Predict = made
    return predict


class Oracle:
    """What was trained, ready to answer for rows of inputs without labels."""

    def __init__(self, script: Path, names: Sequence[str], contents: Sequence[Array]) -> None:
        """``contents``: the bytes of the collected outputs, in the order of their names."""
        out = Path(tempfile.mkdtemp(prefix="trained-"))
        for name, content in zip(names, contents, strict=True):
            (out / Path(name).name).write_bytes(content.tobytes())
        self._predict = predictor(script, out)

    @property
    def facts(self) -> dict[str, object]:
        """It declares nothing when it opens."""
        return {}

    def answer(
        self, what: str, arrays: Sequence[Array], options: Mapping[str, Any]
    ) -> tuple[dict[str, object], list[Array]]:
        """Predictions for the named ``inputs``, in the order of the wanted ``answers``."""
        if what != "predict":
            raise ValueError(f"unknown request {what!r}")
        named = zip(options["inputs"], arrays, strict=True)
        inputs = {name: torch.from_numpy(np.array(values)) for name, values in named}
        with torch.no_grad():
            found = self._predict(inputs)
        wanted = [found[name].detach().cpu().numpy() for name in options["answers"]]
        return {}, [np.ascontiguousarray(values) for values in wanted]
