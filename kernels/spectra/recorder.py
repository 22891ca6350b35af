"""Spectra of a model's feed-forwards, recorded while it runs.

    recorder = Recorder(model)
    if recorder.due(step):
        with recorder.watching(step) as watch:
            logits = model(tokens)
        records = watch.records          # list of JSON-ready dicts

The feed-forwards are found from the data flow (:mod:`nightlab.kernels.spectra.origins`), so
nothing has to be said about the program. The outputs, the global random state and the model are
left as they were, whether the block ends well or not. Recompute under activation checkpointing,
``torch.compile`` regions, ``torch.jit`` functions and hand-written kernels are not seen: what was
not seen is not reported, and ``recorder.found`` says what was.

Records are computed by whoever runs the program. Where that is foreign code they are
self-reported, and advisory.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from nightlab.kernels.spectra import definitions, depth
from nightlab.kernels.spectra.depth import FeedForward, Key
from nightlab.kernels.spectra.moments import Moments, Spectrum, spectrum
from nightlab.kernels.spectra.origins import Crossing, Flow

Place = Literal["pre", "post", "out", "residual"]
PLACES: tuple[Place, ...] = ("pre", "post", "out", "residual")
Pre = Literal["gate", "up", "gate*up"]
Record = dict[str, str | int | float | None]
EVERY = 50
"""Training steps between two records: the default cadence."""
TOKENS = 256
"""Tokens sampled for one spectrum: enough for the corrected participation ratio."""
SHARE = 0.01
"""Largest share of the process's CPU time that records may take; beyond it they are skipped."""
FOLLOWING = 1.25
"""Following the calls of a pass costs about a quarter of what sampling and eigenvalues do."""


@dataclass
class Watch:
    """What one ``watching`` block saw; ``records`` is filled when the block ends."""

    step: int
    records: list[Record] = field(default_factory=list)
    eigenvalues: list[Tensor | None] = field(default_factory=list)
    """For each record its eigenvalues [D], descending; None where there are none."""


class Recorder:
    """Finds the feed-forwards of a model and records their spectra.

    ``tokens`` rows are drawn without replacement from each forward pass by a generator of its own
    (the same rows before and after an activation); ``None`` takes all tokens through streaming
    moments. ``pre`` chooses what counts as "before" in a gated feed-forward; ``places`` what to
    record: ``out`` is the feed-forward's output, whose spectrum is the post spectrum weighted by
    the function (post times W_down), ``residual`` the stream after it was added. ``share`` caps
    what ``due`` asks for; ``None`` lifts the cap.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        tokens: int | None = TOKENS,
        every: int = EVERY,
        places: tuple[Place, ...] = ("pre", "post"),
        pre: Pre = "gate",
        seed: int = 0,
        share: float | None = SHARE,
    ) -> None:
        if tokens is not None and tokens < 4:
            raise ValueError(f"a spectrum needs at least 4 tokens, got {tokens}")
        if every < 1 or not set(places) <= set(PLACES):
            raise ValueError(f"every must be positive and places among {PLACES}")
        self._model = model
        self._tokens = tokens
        self._every = every
        self._places = places
        self._pre = pre
        self._seed = seed
        self._share = share
        self._began, self._spent = time.process_time(), 0.0
        self._found: dict[Key, FeedForward] = {}

    @property
    def found(self) -> tuple[FeedForward, ...]:
        """The feed-forwards seen so far, by depth and expert."""
        return tuple(depth.arranged(self._found).values())

    def due(self, step: int) -> bool:
        """Whether to record this step: a multiple of ``every``, within the share of CPU time.

        Records of a program with very short steps are thinned, never moved off the grid.
        """
        if step <= 0 or step % self._every:
            return False
        if self._share is None:
            return True
        return FOLLOWING * self._spent <= self._share * (time.process_time() - self._began)

    @contextmanager
    def watching(self, step: int = 0) -> Iterator[Watch]:
        """Watch the forward passes in the block; ``step`` is the label that records will carry."""
        watch = Watch(step)
        pass_ = _Pass(self, step)
        hook = self._model.register_forward_pre_hook(pass_.restart, with_kwargs=True)
        names: dict[int, str] = {}
        for named in (self._model.named_parameters, self._model.named_buffers):
            for name, tensor in named(remove_duplicate=False):
                names.setdefault(id(tensor), name)
        try:
            with Flow(names, pass_.crossed, pass_.rejoined):
                yield watch
        finally:
            hook.remove()
        began = time.process_time()
        watch.records, watch.eigenvalues = pass_.records()
        self._spent += time.process_time() - began

    def _note(self, crossing: Crossing, key: Key) -> None:
        up = crossing.up.weight if crossing.up else None
        names = [name for name in (crossing.gate.weight, up, crossing.down) if name]
        self._found.setdefault(
            key,
            FeedForward(
                path=depth.common_path(names) + (f"#{key[2]}" if key[2] else ""),
                kind="gated" if crossing.up else "plain",
                gate=crossing.gate.weight,
                up=up,
                down=crossing.down,
                width=crossing.post.shape[-1],
            ),
        )


class _Pass:
    """The forward passes of one ``watching`` block."""

    def __init__(self, recorder: Recorder, step: int) -> None:
        self._recorder = recorder
        self._step = step
        self._seen: dict[tuple[str, str], int] = {}
        self._numbers: list[Key] = []
        self._rows: dict[int, Tensor] = {}
        self._forward = 0
        self._kept: dict[tuple[Key, Place], list[Tensor] | Moments] = {}

    def restart(self, *_: object) -> None:
        """A new forward pass of the whole model begins."""
        self._seen.clear()
        self._rows.clear()
        self._forward += 1

    @torch.no_grad()
    def crossed(self, crossing: Crossing) -> int:
        """Keep what a feed-forward showed; returns its number, for its residual."""
        gate, down = crossing.gate.weight, crossing.down
        occurrence = self._seen.get((gate, down), 0)
        self._seen[gate, down] = occurrence + 1
        pre = self._before(crossing)
        seen: dict[Place, Tensor] = {"pre": pre, "post": crossing.post, "out": crossing.out}
        for expert in range(max(1, crossing.experts)):
            key = (gate, down, occurrence, expert)
            self._recorder._note(crossing, key)
            for place, tensor in seen.items():
                self._keep(key, place, tensor[expert] if crossing.experts else tensor)
        self._numbers.append(key)
        return len(self._numbers) - 1

    def rejoined(self, number: int, stream: Tensor) -> None:
        """Keep the residual stream after a feed-forward was added to it."""
        self._keep(self._numbers[number], "residual", stream)

    def records(self) -> tuple[list[Record], list[Tensor | None]]:
        """One record, and its eigenvalues, for each feed-forward and place, in order of depth."""
        spectra = {at: _spectrum(kept) for at, kept in self._kept.items()}
        scalars = {at: _scalars(found) for at, found in spectra.items()}
        for key, place in spectra:
            before: tuple[Key, Place] = (key, "pre")
            if place == "post" and before in spectra:
                scalars[key, place] |= _gains(scalars[before], scalars[key, place])
                scalars[key, place] |= _divergence(spectra[before], spectra[key, place])
        known = depth.arranged(self._recorder._found)
        order = [(key, place) for key in known for place in PLACES if (key, place) in scalars]
        records = [self._label(known[key], place) | scalars[key, place] for key, place in order]
        found = [spectra[at] for at in order]
        return records, [each.values if isinstance(each, Spectrum) else None for each in found]

    def _before(self, crossing: Crossing) -> Tensor:
        if crossing.up is None or self._recorder._pre == "gate":
            return crossing.gate.output
        up = crossing.up.output
        return up if self._recorder._pre == "up" else crossing.gate.output * up

    @torch.no_grad()
    def _keep(self, key: Key, place: Place, tensor: Tensor) -> None:
        if place not in self._recorder._places:
            return
        x_ND = tensor.detach().reshape(-1, tensor.shape[-1])
        at = (key, place)
        if self._recorder._tokens is None:
            kept = self._kept.setdefault(at, Moments(x_ND.shape[1], device=x_ND.device))
            if isinstance(kept, Moments):
                kept.update(x_ND)
            return
        rows = self._kept.setdefault(at, [])
        if isinstance(rows, list):
            rows.append(x_ND[self._sample(x_ND.shape[0], x_ND.device)].to("cpu", torch.float32))

    def _sample(self, n: int, device: torch.device) -> Tensor:
        """Row numbers, the same for every tensor of ``n`` rows in one forward pass."""
        if n not in self._rows:
            generator = torch.Generator().manual_seed(
                (self._recorder._seed * 1_000_003 + self._step) * 1_000 + self._forward
            )
            chosen = torch.randperm(n, generator=generator)[: self._recorder._tokens]
            self._rows[n] = chosen.to(device)
        return self._rows[n]

    def _label(self, feed_forward: FeedForward, place: Place) -> Record:
        return {
            "step": self._step,
            "layer": feed_forward.layer,
            "expert": feed_forward.expert,
            "path": feed_forward.path,
            "place": place,
        }


def _spectrum(kept: list[Tensor] | Moments) -> Spectrum | str:
    """The spectrum of what was kept, or the reason why there is none."""
    source = kept if isinstance(kept, Moments) else torch.cat(kept)
    if (source.n if isinstance(source, Moments) else source.shape[0]) < 4:
        return "fewer than 4 tokens"
    try:
        return spectrum(source)
    except ValueError as reason:
        return str(reason)


def _scalars(found: Spectrum | str) -> Record:
    if isinstance(found, str):
        return {"flag": found}
    constant = found.spread.trace == 0
    return {
        "n": found.n,
        "d": found.d,
        "entropy": _plain(definitions.spectral_entropy(found.values)),
        "pr": _plain(definitions.participation_ratio(found.values)),
        "pr_corrected": _plain(found.spread.corrected_participation_ratio()),
        "eee": _plain(definitions.early_enrichment(found.values)),
        "flag": "constant" if constant else None,
    }


def _gains(before: Record, after: Record) -> Record:
    """Ratios of the participation ratios, and the change of early enrichment."""
    ratios: Record = {}
    for name, metric in (("pr_gain", "pr"), ("pr_gain_corrected", "pr_corrected")):
        low, high = _number(before, metric), _number(after, metric)
        ratios[name] = _plain(high / low)
    ratios["eee_diff"] = _plain(_number(after, "eee") - _number(before, "eee"))
    return ratios


def _number(record: Record, metric: str) -> float:
    value = record.get(metric)
    return value if isinstance(value, float) else math.nan


def _divergence(before: Spectrum | str, after: Spectrum | str) -> Record:
    if isinstance(before, str) or isinstance(after, str):
        return {"js": None}
    return {"js": _plain(definitions.divergence(before.values, after.values))}


def _plain(value: float) -> float | None:
    """A number that JSON can hold; None for nan or infinity."""
    return value if math.isfinite(value) else None
