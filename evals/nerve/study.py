"""Small byte-level language models for the study of spectra: one setting in, one trace out.

The corpus is the Python source of the standard library, split by file. Everything is seeded; the
model, its data order and its probes follow from the setting alone.

Axes: B batch, T tokens, D width of the residual stream.
"""

import hashlib
import json
import math
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nightlab.evals.nerve.readings import Reading, parse
from nightlab.kernels.spectra import Recorder, differentiable

Activation = Literal["gelu", "relu", "silu", "relu2"]
ACTS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
    "relu2": lambda x: functional.relu(x).square(),
}
CONTEXT = 64
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One training run of the study."""

    seed: int = 0
    steps: int = 300
    activation: Activation = "gelu"
    norm: bool = True
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 3e-3
    """Peak learning rate; for Muon, that of its matrices (the rest is AdamW at 3e-3)."""
    weight_decay: float = 0.1
    width: int = 64
    depth: int = 4
    ratio: int = 4
    """Hidden units of the feed-forward per unit of width."""
    penalty: Literal["none", "pr_pre", "eee_post"] = "none"
    penalty_weight: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What one run left."""

    setting: Setting
    losses: dict[int, float]
    """Validation loss by step, nats per byte."""
    readings: tuple[Reading, ...]
    """Spectra on a fixed probe batch in evaluation mode, by step."""
    seconds: float
    """CPU time of the whole run."""
    model: nn.Module | None = field(repr=False, compare=False, default=None)
    """None where the trace was read back from a file."""

    @property
    def loss(self) -> float:
        """Final validation loss."""
        return self.losses[max(self.losses)]


def keep(trace: Trace, folder: Path) -> None:
    """Write a trace, without its model, under the name of its setting."""
    folder.mkdir(parents=True, exist_ok=True)
    readings = [asdict(each) for each in trace.readings]
    told = {"losses": trace.losses, "readings": readings, "seconds": trace.seconds}
    draft = folder / f"{_name(trace.setting)}.draft"
    draft.write_text(json.dumps(told))
    draft.replace(draft.with_suffix(".json"))


def kept(setting: Setting, folder: Path) -> Trace | None:
    """The trace of a setting that was kept in a folder, or None."""
    file = folder / f"{_name(setting)}.json"
    if not file.exists():
        return None
    told = json.loads(file.read_text())
    return Trace(
        setting=setting,
        losses={int(step): loss for step, loss in told["losses"].items()},
        readings=parse(told["readings"]),
        seconds=told["seconds"],
    )


def _name(setting: Setting) -> str:
    return hashlib.sha256(json.dumps(asdict(setting)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Corpus:
    """Bytes for training and validation, from different files."""

    train: Tensor
    validation: Tensor

    @classmethod
    def of_standard_library(cls, train_bytes: int = 4_000_000, held_out: int = 300_000) -> "Corpus":
        """Every seventh file is held out; sizes in bytes."""
        root = Path(sysconfig.get_paths()["stdlib"])
        files = sorted(p for p in root.glob("*.py") if p.is_file())
        files += sorted(p for p in root.glob("asyncio/*.py"))
        held = b"".join(p.read_bytes() for p in files[::7])[:held_out]
        rest = [p for n, p in enumerate(files) if n % 7]
        train = b"".join(p.read_bytes() for p in rest)[:train_bytes]
        return cls(
            *(torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in (train, held))
        )

    def batches(self, seed: int, rows: int = BATCH) -> Iterator[Tensor]:
        """Endless training batches [B, T + 1]."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield _rows(
                self.train,
                torch.randint(len(self.train) - CONTEXT - 1, (rows,), generator=generator),
            )

    def held(self, rows: int, seed: int = 7) -> Tensor:
        """A fixed validation batch [B, T + 1]."""
        generator = torch.Generator().manual_seed(seed)
        return _rows(
            self.validation,
            torch.randint(len(self.validation) - CONTEXT - 1, (rows,), generator=generator),
        )


def _rows(text: Tensor, starts: Tensor) -> Tensor:
    return text[starts[:, None] + torch.arange(CONTEXT + 1)].long()


class Block(nn.Module):
    """Pre-norm attention and feed-forward; without norms, the plain residual sums."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        d, hidden = setting.width, setting.ratio * setting.width
        self.norm1, self.norm2 = (nn.LayerNorm(d) if setting.norm else nn.Identity() for _ in "ab")
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, hidden), nn.Linear(hidden, d)
        self.act = ACTS[setting.activation]
        self.hidden: tuple[Tensor, Tensor] | None = None
        """Pre and post activations of the last pass, for penalties."""

    def forward(self, x: Tensor) -> Tensor:
        """Residual stream [B, T, D] to the same."""
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, 4, d // 4).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, d))
        pre = self.up(self.norm2(x))
        post = self.act(pre)
        self.hidden = (pre, post) if self.training else None
        return x + self.down(post)  # type: ignore[no-any-return]


class ByteModel(nn.Module):
    """A decoder over bytes with learned positions."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        d = setting.width
        self.embed = nn.Embedding(256, d)
        self.position = nn.Parameter(torch.randn(CONTEXT, d) * 0.02)
        blocks = [Block(setting) for _ in range(setting.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(d) if setting.norm else nn.Identity()
        self.head = nn.Linear(d, 256)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.7 * d**-0.5)
        for block in blocks:
            for last in (block.out, block.down):
                nn.init.normal_(last.weight, std=0.7 * d**-0.5 / math.sqrt(2 * setting.depth))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T] to logits [B, T, 256]."""
        x = self.embed(tokens) + self.position[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


def train(setting: Setting, corpus: Corpus, *, every: int = 25, tokens: int = 512) -> Trace:
    """Train one setting, measuring loss and spectra every ``every`` steps; single-threaded cost."""
    began = time.process_time()
    torch.manual_seed(setting.seed)
    model = ByteModel(setting)
    optimizers = _optimizers(model, setting)
    recorder = Recorder(model, tokens=tokens, places=("pre", "post", "out", "residual"))
    batches, held, probe = corpus.batches(setting.seed), corpus.held(96), corpus.held(32, seed=8)
    losses: dict[int, float] = {}
    readings: list[Reading] = []
    for step in range(1, setting.steps + 1):
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * _schedule(step / setting.steps)
        _descend(model, next(batches), setting, [each for each, _ in optimizers])
        if step % every == 0:
            losses[step] = evaluate(model, held)
            readings += measure(model, recorder, probe, step)
    return Trace(
        setting=setting,
        losses=losses,
        readings=tuple(readings),
        seconds=time.process_time() - began,
        model=model,
    )


def _descend(
    model: ByteModel, rows: Tensor, setting: Setting, optimizers: list[torch.optim.Optimizer]
) -> None:
    logits = model(rows[:, :-1])
    loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    if setting.penalty != "none":
        loss = loss + setting.penalty_weight * _penalty(model, setting)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def _penalty(model: ByteModel, setting: Setting) -> Tensor:
    """-PR_pre/D, or EEE_post, averaged over layers; on 256 tokens, as the trace is measured."""
    terms = []
    for block in model.blocks:
        pre, post = block.hidden  # type: ignore[misc]
        x = (pre if setting.penalty == "pr_pre" else post).flatten(0, 1)[:256]
        S = differentiable.covariance(x)
        if setting.penalty == "pr_pre":
            terms.append(-differentiable.participation_ratio(S) / len(S))
        else:
            terms.append(differentiable.early_enrichment(S))
    return torch.stack(terms).mean()


def _optimizers(model: ByteModel, setting: Setting) -> list[tuple[torch.optim.Optimizer, float]]:
    decay = setting.weight_decay
    if setting.optimizer == "adamw":
        adamw = torch.optim.AdamW(model.parameters(), setting.lr, (0.9, 0.95), weight_decay=decay)
        return [(adamw, setting.lr)]
    matrices = [p for b in model.blocks for p in b.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, setting.lr, weight_decay=decay)
    return [
        (muon, setting.lr),
        (torch.optim.AdamW(rest, 3e-3, (0.9, 0.95), weight_decay=decay), 3e-3),
    ]


def _schedule(share: float) -> float:
    """Linear warm-up over 5 % of the run, then a cosine to a tenth."""
    if share < 0.05:
        return share / 0.05
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (share - 0.05) / 0.95))


@torch.no_grad()
def evaluate(model: nn.Module, held: Tensor) -> float:
    """Validation loss in nats per byte."""
    model.eval()
    logits = model(held[:, :-1])
    model.train()
    return float(functional.cross_entropy(logits.flatten(0, 1), held[:, 1:].flatten()))


@torch.no_grad()
def measure(model: nn.Module, recorder: Recorder, probe: Tensor, step: int) -> tuple[Reading, ...]:
    """Spectra on a fixed probe batch in evaluation mode."""
    model.eval()
    with recorder.watching(step) as watch:
        model(probe[:, :-1])
    model.train()
    return parse(watch.records)
