"""What ``nightlab spectra`` may be asked about beside model folders: trials, and checkpoints.

Their programs are foreign code: an oracle's sandbox computes what is computed here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightlab.agents import probing, spectra, vet
from nightlab.agents.lab import OUR_AUTHORS
from nightlab.errors import UsageError, boundary
from nightlab.evals.nerve import told
from nightlab.evals.nerve.hugging_face import Probing
from nightlab.evals.nerve.probe import Report, token_batches
from nightlab.evals.nerve.spectra import Subject
from nightlab.evals.nerve.told import Answer
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Trial
from nightlab.sandbox.choose import choose
from nightlab.sandbox.guest.program import ENTRY
from nightlab.sandbox.guest.wire import Message
from nightlab.sandbox.protocol import Cell, Room
from nightlab.vocabulary import Integrity, Program

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Inside:
    """How foreign programs are run to be probed."""

    tier: str
    """A tier's name, or ``auto``."""
    unsafe: bool
    """Whether the process tier may run programs that are not the lab's own."""
    data: Sequence[Path]
    """Text whose bytes are the probe's tokens; random bytes without."""
    probing: Probing


def of_checkpoint(weights: Path, program: Path, inside: Inside) -> Subject:
    """A safetensors checkpoint at rest, built by its program's file (or folder of files).

    UsageError where either cannot be read, or the program gives no spectra.
    """
    with boundary(UsageError, f"reading {weights} and its program {program}"):
        files = sorted(program.glob("*.py")) if program.is_dir() else [program]
        texts = {file.name: file.read_text() for file in files}
        content = np.fromfile(weights, dtype=np.uint8)
    if len(texts) == 1:
        texts = {ENTRY: next(iter(texts.values()))}
    if ENTRY not in texts:
        raise UsageError(f"{program}: a program's entry is {ENTRY}, which is not among its files")
    report, about = _probed(Program(texts), content, str(program), inside)
    return Subject(weights.name, about, report)


def of_trial(ledger: Ledger, name: str, inside: Inside) -> Subject:
    """An experiment or one of its trials: what its trainer recorded by step, or with data its
    trained weights at rest.

    UsageError where neither was kept.
    """
    trial = _trial(ledger, name, weights=bool(inside.data))
    seen = None if inside.data else spectra.read(ledger.artifacts, trial)
    if seen is not None and seen.readings:
        about = f"recorded by the trainer of {trial.id} (self-reported)"
        if trial.measurement and trial.measurement.integrity is not Integrity.CLEAN:
            about += f"; {trial.measurement.integrity}: {'; '.join(trial.measurement.reasons)}"
        return Subject(name, about, series=seen.readings)
    file = trial.artifacts.get(WEIGHTS)
    if file is None:
        raise UsageError(
            f"{trial.id} kept neither spectra nor weights: screening trials keep no weights; "
            "name an experiment that was confirmed, or the baseline"
        )
    content = np.frombuffer(ledger.artifacts.get(file.sha256), dtype=np.uint8)
    stored = ledger.program(trial.program)
    authors = [e.author for e in ledger.lineage(trial.experiment)]
    hand = next((author for author in authors if author not in OUR_AUTHORS), "catalogue")
    report, about = _probed(stored.program, content, hand, inside)
    return Subject(name, f"weights of {trial.id} on {about}", report)


def _trial(ledger: Ledger, name: str, *, weights: bool) -> Trial:
    """The named trial, or an experiment's with the longest record (or with weights)."""
    if "/" in name:
        return ledger.trial(name)
    program = ledger.experiment(name).program
    trials = [t for t in ledger.trials(experiment=name) if t.run and t.program == program]
    if not trials:
        raise UsageError(f"{name} has no finished trial to look at")
    kept = [t for t in trials if WEIGHTS in t.artifacts] if weights else []
    logs = [(t, spectra.read(ledger.artifacts, t)) for t in kept or trials]
    return max(logs, key=lambda pair: len(pair[1].reports) if pair[1] else -1)[0]


def _probed(
    program: Program, weights: NDArray[np.uint8], author: str, inside: Inside
) -> tuple[Report, str]:
    """Spectra at rest, computed inside a sandbox, and what they were probed with."""
    text, about = _text(inside)
    chosen = choose(inside.tier)
    try:
        if reason := vet.refuse_tier(chosen.sandbox.tier, author, unsafe=inside.unsafe):
            raise UsageError(reason)
        cell = chosen.sandbox.open(Room(output_bytes=0))
        try:
            report = _report(cell, program, weights, text, inside.probing)
        finally:
            cell.close()
    finally:
        chosen.sandbox.close()
    return report, f"{about}, in the {chosen.sandbox.tier} sandbox"


def _report(
    cell: Cell, program: Program, weights: NDArray[np.uint8], text: bytes, how: Probing
) -> Report:
    request = Message({"do": "open", "files": dict(program.files), "device": "cpu"}, [weights])
    opened = _answered(cell.ask(request, probing.LIMITS))
    context = opened.header.get("context")
    if type(context) is not int or context < 1:
        raise UsageError(f"the program declares a context of {context!r}")
    length = min(how.length, context)
    tokens = token_batches(list(text), batches=how.batches, rows=how.rows, length=length)
    answers = []
    for number, batch in enumerate(tokens):
        extra = {"whole": True, "tokens": how.tokens}
        answer = _answered(probing.ask(cell, batch.numpy().astype(np.int64), number, extra))
        header, arrays = answer.header, answer.arrays
        answers.append(Answer(header.get("records"), header.get("found"), arrays[0]))
    return told.report(answers)


def _answered(answer: Message | None) -> Message:
    if answer is None:
        raise UsageError("the program died in its sandbox, or passed a limit, while it was probed")
    if "error" in answer.header:
        words = " ".join(str(answer.header["error"]).split())
        raise UsageError(f"the program cannot be probed: {words[:300]}")
    return answer


def _text(inside: Inside) -> tuple[bytes, str]:
    if not inside.data:
        how = inside.probing
        rng = np.random.default_rng(how.seed)
        random = rng.integers(0, 256, how.batches * how.rows * how.length, dtype=np.uint8)
        return random.tobytes(), "random bytes (no data given)"
    with boundary(UsageError, "reading the probe data"):
        text = b"\n".join(each.read_bytes() for each in inside.data)
    names = ", ".join(each.name for each in inside.data[:3])
    return text, f"bytes of {names}{', ...' if len(inside.data) > 3 else ''}"
