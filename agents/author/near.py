"""Near-duplicates: a written change that an embedding model cannot tell from one that was tried.

What is compared are changes (diffs against the baseline), not programs, which are all alike.
An embedder that fails refuses nothing; the log says so once and the campaign goes on without it.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nightlab.agents.lab import Lab
from nightlab.agents.question import Recorder, UnansweredError
from nightlab.memory.report.diff import diff
from nightlab.vocabulary import Program

ALIKE = 0.99
"""Cosine above which two changes count as one (what published systems use)."""
LATEST = 200
"""Experiments that are compared with."""
MOST_CHARACTERS = 6_000
"""Of a change."""


class Embedder(Protocol):
    """Whoever turns texts into vectors."""

    def embed(self, texts: Sequence[str], record: Recorder) -> list[list[float]]:
        """A vector for each text.

        Raises:
            UnansweredError: there is none.
        """
        ...


@dataclass
class Neighbours:
    """The changes that a campaign has tried, as vectors; one that is resumed reads them anew."""

    lab: Lab
    embedder: Embedder
    _vectors: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """By program id, of length 1."""
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refuse(self, experiment: str, program: Program) -> str | None:
        """Why a program is nearly one that was tried before; None if it is not."""
        with self._lock:
            if self._closed:
                return None
            tried = self._tried(experiment)
            try:
                self._learn(experiment, [program, *(known for _, known in tried)])
            except UnansweredError as error:
                self._closed = True
                self.lab.log("model", f"changes are no longer compared: {error}", experiment)
                return None
            mine = self._vectors[program.id]
            alike = [(float(mine @ self._vectors[known.id]), name) for name, known in tried]
        likeness, name = max(alike, default=(0.0, ""))
        if likeness < ALIKE:
            return None
        return f"nearly the same change as {name} (similarity {likeness:.3f}): try something else"

    def _tried(self, experiment: str) -> list[tuple[str, Program]]:
        """Latest experiments with a program, but for the one in question and the baseline."""
        rows = [
            e
            for e in self.lab.ledger.experiments(self.lab.campaign.id)
            if e.program is not None and e.number > 0 and e.id != experiment
        ]
        return [(e.id, self.lab.program_of(e.id)) for e in rows[-LATEST:]]

    def _learn(self, experiment: str, programs: Sequence[Program]) -> None:
        new = {p.id: self._change(p) for p in programs if p.id not in self._vectors}
        if not new:
            return
        campaign, ledger = self.lab.campaign.id, self.lab.ledger
        made = self.embedder.embed(
            list(new.values()),
            lambda call: ledger.record_call(campaign, call, experiment=experiment),
        )
        for name, row in zip(new, made, strict=True):
            vector = np.array(row, dtype=np.float64)
            self._vectors[name] = vector / max(float(np.linalg.norm(vector)), 1e-12)

    def _change(self, program: Program) -> str:
        text = diff(self.lab.program_of(self.lab.baseline), program, "baseline", "change")
        return text[:MOST_CHARACTERS] or "nothing"
