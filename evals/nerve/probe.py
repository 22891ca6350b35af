"""Spectra of a model at rest, on a fixed probe, with intervals.

Each batch holds other sequences, and each gives spectra of its own at equal N; the interval is
Student's over batches, so that tokens of one sequence, which resemble each other, do not make it
too narrow.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nightlab.errors import UsageError
from nightlab.evals.nerve.readings import Reading, parse
from nightlab.evals.nerve.trends import Interval, mean_interval
from nightlab.kernels.spectra import FeedForward, Recorder
from nightlab.kernels.spectra.recorder import PLACES

At = tuple[int, int | None, str, str]
"""Layer, expert, path and place of a reading."""
NUMBERS = ("pr_corrected", "pr", "entropy", "eee", "js", "pr_gain_corrected", "eee_diff")


@dataclass(frozen=True)
class Report:
    """What a probe found."""

    found: tuple[FeedForward, ...]
    batches: tuple[tuple[Reading, ...], ...]
    """Readings of each probe batch."""
    eigenvalues: tuple[Tensor | None, ...] = ()
    """Of each reading of the first batch, [D], descending."""

    @property
    def readings(self) -> tuple[Reading, ...]:
        """Those of the first batch: one for each feed-forward and place."""
        return self.batches[0]

    def intervals(self) -> Mapping[At, Mapping[str, Interval]]:
        """Mean over batches with a 95 % interval, for each reading and number."""
        columns: dict[At, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for batch in self.batches:
            for reading in batch:
                at = (reading.layer, reading.expert, reading.path, reading.place)
                for name in NUMBERS:
                    value = getattr(reading, name)
                    if value is not None:
                        columns[at][name].append(value)
        return {
            at: {name: mean_interval(values) for name, values in numbers.items()}
            for at, numbers in columns.items()
        }


@torch.no_grad()
def probe(
    model: nn.Module,
    batches: Iterable[Tensor | Mapping[str, Tensor]],
    *,
    tokens: int = 512,
    step: int = 0,
) -> Report:
    """Spectra of every feed-forward of ``model`` in evaluation mode, on each batch.

    A batch is what the model's ``forward`` takes: a tensor, or keyword arguments. The training
    mode of every module is restored. UsageError where no batch is given or no feed-forward found.
    """
    recorder = Recorder(model, tokens=tokens, places=PLACES)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    seen: list[tuple[Reading, ...]] = []
    first: tuple[Tensor | None, ...] = ()
    try:
        for batch in batches:
            with recorder.watching(step) as watch:
                model(**batch) if isinstance(batch, Mapping) else model(batch)
            seen.append(parse(watch.records))
            first = first or tuple(watch.eigenvalues)
    finally:
        for module, mode in modes:
            module.training = mode
    if not seen:
        raise UsageError("a probe needs at least one batch")
    if not recorder.found:
        raise UsageError(
            "no feed-forward found: nothing lies between two parameter matmuls with only "
            "token-wise operations and a nonlinearity (compiled or fused code is not seen)"
        )
    return Report(recorder.found, tuple(seen), first)


def token_batches(text: Sequence[int], *, batches: int, rows: int, length: int) -> list[Tensor]:
    """Disjoint probe batches [rows, length] cut evenly from a token sequence.

    UsageError where the text is too short for one batch of one row; fewer batches where it is too
    short for all.
    """
    room = len(text) // length
    if room < 4:
        raise UsageError(
            f"{len(text)} tokens are too few for {length}-token sequences: "
            "give more text, or a smaller --length"
        )
    rows = min(rows, max(1, room // batches)) if room < rows * batches else rows
    wanted = min(batches, room // rows)
    stride = room // (wanted * rows)
    cut = torch.tensor(text[: room * length]).view(room, length)[:: max(1, stride)]
    return list(cut[: wanted * rows].view(wanted, rows, length))
