"""What a case is, and the two files every hostile program comes with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nightlab.vocabulary import Ending, Limits, Run

MEMORY_BYTES = 1 << 30
PROCESSES = 40
OUTPUT_BYTES = 8 << 20
WEIGHTS_BYTES = 4 << 20
REJECTED, ACCEPTED = "rejected", "accepted"

HONEST = '''
"""A tiny causal model: what a hostile program pretends to be."""
from dataclasses import dataclass
import torch
from torch import nn

VOCABULARY = 256

@dataclass(frozen=True)
class Recipe:
    context: int = 32
    batch: int = 8
    learning_rate: float = 3e-3
    clip: float = 1.0

class Model(nn.Module):
    def __init__(self, recipe):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.out = nn.Linear(16, VOCABULARY)

    def forward(self, tokens_BT):
        x = self.embedding(tokens_BT)
        steps = torch.arange(1, x.shape[1] + 1).view(1, -1, 1)
        return self.out(x + x.cumsum(1) / steps)

def make_optimizer(model, recipe):
    return torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)

def schedule(progress, recipe):
    return 1.0
'''

PRELUDE = """
import ctypes, errno, json, os, pathlib, signal, socket, struct, sys, time
ctypes.CDLL(None).prctl(15, {mark!r}.encode(), 0, 0, 0)  # a name to be found by afterwards
from honest import *
OUT = pathlib.Path({out!r})
def tried(**attempts):
    worked = []
    for name, attempt in attempts.items():
        try:
            attempt()
            worked.append(name)
        except (OSError, ImportError, AssertionError):
            pass
    if worked:
        raise RuntimeError("BREACH: " + ", ".join(worked))
def fail(code, *arguments):
    number = ctypes.CDLL(None, use_errno=True).syscall(code, *arguments)
    if number < 0:
        raise OSError(ctypes.get_errno(), "refused")
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One hostile program."""

    name: str
    number: str
    """In the list of the threat model; ``+`` for one beyond it."""
    program: str
    """Comes after the prelude, in the same file."""
    expected: frozenset[str]
    """The endings that are right, or REJECTED or ACCEPTED for what the scorer says."""
    ask: Literal["train", "score"] = "train"
    isolating: bool = False
    """Whether only isolation can stop it; it is not even tried in the process tier."""
    limits: Limits = field(default_factory=lambda: Limits(cpu_seconds=4, wall_seconds=60))
    """CPU seconds end it on a busy machine as on a quiet one; what sleeps says a shorter time."""
    memory_bytes: int = MEMORY_BYTES
    answer_bytes: int = 64 << 20
    proof: Callable[[Run], str] = lambda _: ""
    """What is wrong with the run although it ended as expected; empty if nothing is."""

    def files(self, mark: str, out: str) -> dict[str, str]:
        """The program as the trainer is given it; its processes bear the mark as their name."""
        text = PRELUDE.format(mark=mark, out=out) + self.program
        return {"honest.py": HONEST, "program.py": text}


def ends(*endings: Ending | str) -> frozenset[str]:
    return frozenset(str(ending) for ending in endings)


def collected(run: Run, name: str) -> bytes:
    """A collected output; empty if there is none."""
    path = (run.outputs or Path("/nowhere")) / name
    return path.read_bytes() if path.exists() else b""
