"""Spectra inside a sandbox: recorded while a program trains, and probed for the scorer.

A training run's records are self-reported: they go to ``spectra.jsonl``, one line a report, and
nothing they say is rewarded. Recording gives way to training: it is capped in CPU time, in reports
and in bytes, and a fault of the recorder ends the recording and nothing else.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nightlab.kernels.spectra import Record, Recorder
from nightlab.kernels.spectra.cadence import FIRST, SHARE, TOKENS, Cadence
from nightlab.kernels.spectra.recorder import PLACES
from nightlab.sandbox.guest.wire import Array

FILE = "spectra.jsonl"
MOST_BYTES = 384 << 10
"""What the file may come to; the host refuses a larger one."""
MOST_LINE_BYTES = 48 << 10
"""What a line may come to; the host refuses a longer one."""
DIGITS = 5


class Recording:
    """Writes the spectra of one training run."""

    def __init__(self, model: nn.Module, out: Path) -> None:
        self._model = model
        self._recorder = Recorder(model, tokens=TOKENS, every=FIRST, share=SHARE)
        self._file = (out / FILE).open("w", buffering=1)
        self._left = MOST_BYTES
        self._cadence = Cadence()
        self._stopped = False

    def loss(self, step: int, compute: Callable[[], Tensor]) -> Tensor:
        """The loss that ``compute`` gives, recorded if ``step`` updates into the run it is due."""
        if not self._due(step):
            return compute()
        try:
            with self._recorder.watching(step) as watch:
                loss = compute()
        except Exception as fault:
            self._stop(fault)
            return compute()
        self._write(step, watch.records, float(loss.detach()))
        return loss

    def last(self, step: int, tokens_BT: Tensor) -> None:
        """Record the trained model once more, at rest, on examples that an oracle will see too."""
        self._model.eval()
        try:
            with torch.no_grad(), self._recorder.watching(step) as watch:
                self._model(tokens_BT)
            self._write(step, watch.records, None)
        except Exception as fault:
            self._stop(fault)
        finally:
            self._file.close()

    def _due(self, step: int) -> bool:
        return self._cadence.due(step) and not self._stopped and self._recorder.due(step)

    def _write(self, step: int, records: Sequence[Record], loss: float | None) -> None:
        rounded = [{name: _short(value) for name, value in each.items()} for each in records]
        line = json.dumps({"step": step, "loss": _short(loss), "records": rounded}) + "\n"
        if len(line) > min(self._left, MOST_LINE_BYTES):
            self._stop(ValueError(f"{len(records)} spectra are more than a report may hold"))
        if self._stopped:
            return
        self._file.write(line)
        self._left -= len(line)
        self._cadence.reported()

    def _stop(self, fault: Exception) -> None:
        self._stopped = True
        self._file.write(json.dumps({"fault": f"{type(fault).__name__}: {fault}"[:300]}) + "\n")


def probe(
    model: nn.Module, tokens_BT: Tensor, batch: int, job: Mapping[str, Any]
) -> tuple[dict[str, object], list[Array]]:
    """Spectra of a model at rest on one batch: records, feed-forwards found, and eigenvalues.

    ``batch`` stands as the step of the records. ``job`` may hold ``tokens``, the N of a spectrum,
    and ``whole``: all places and eigenvalues (concatenated in the order of the records).
    """
    whole = bool(job.get("whole"))
    places = PLACES if whole else PLACES[:2]
    recorder = Recorder(model, tokens=int(job.get("tokens", TOKENS)), places=places)
    with torch.no_grad(), recorder.watching(batch) as watch:
        model(tokens_BT)
    found = [asdict(each) for each in recorder.found] if whole else []
    kept = [each.float().numpy() for each in watch.eigenvalues if each is not None]
    eigenvalues = np.concatenate(kept) if whole and kept else np.zeros(0, np.float32)
    return {"records": watch.records, "found": found}, [eigenvalues]


def _short(value: str | int | float | None) -> str | int | float | None:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
