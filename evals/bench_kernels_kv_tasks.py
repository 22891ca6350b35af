"""Generated recall tasks for cache eviction, and the training of the tiny model that solves them.

A context is filler with eight pairs of neighbouring tokens hidden in it. Later keys of an answer
are named by the answer itself, so a question alone does not say which rows it will need.
Tokens: symbols 0..63, filler 64..95, tags of the two lists, then the question marks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nightlab.kernels.kv.decoder import TinyDecoder, TinyLayer, TinyShape

SYMBOLS, FILLERS, PAIRS = 64, 32, 8
TAGS = SYMBOLS + FILLERS
START, ASK, CHAIN, LIST_A, LIST_B = range(TAGS + PAIRS, TAGS + PAIRS + 5)
VOCABULARY = LIST_B + 1

Kind = Literal["multi_value", "multi_hop", "one_hop"]


@dataclass(frozen=True, kw_only=True)
class Recall:
    """A batch of one kind, all of one length."""

    context: Tensor
    """[B, T]."""
    question: Tensor
    """[B, N]."""
    answer: Tensor
    """[B, M]: what follows the question."""
    scored: Tensor
    """[M]: which answer tokens had to be recalled (True), and which are known by heart."""


def _distinct(batch: int, among: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(batch, among, generator=generator).argsort(dim=1)[:, :count]


def _hide(pairs_BP2: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """The pairs at random places, in random order, in ``length`` tokens of filler after START."""
    B, P, _ = pairs_BP2.shape
    order = torch.rand(B, P, generator=generator).argsort(dim=1)
    pairs = pairs_BP2.gather(1, order[..., None].expand(B, P, 2))
    slots = (length - 1 - P) - 1
    # P places among the gaps left when each pair counts as one token: no overlap, any distance.
    place = _distinct(B, slots, P, generator).sort(dim=1).values + torch.arange(P)
    out = torch.randint(SYMBOLS, TAGS, (B, length), generator=generator)
    out[:, 0] = START
    out.scatter_(1, place + 1, pairs[..., 0]).scatter_(1, place + 2, pairs[..., 1])
    return out


def make(kind: Kind, batch: int, length: int, generator: torch.Generator) -> Recall:
    """One batch of fresh problems with contexts of ``length`` tokens."""
    if kind == "multi_value":
        return _lists(batch, length, generator)
    symbols = _distinct(batch, SYMBOLS, 12, generator)
    first, second, spare = symbols[:, :4], symbols[:, 4:8], symbols[:, 8:]
    links = [torch.stack([c[:, i], c[:, i + 1]], 1) for c in (first, second) for i in range(3)]
    links += [spare[:, 0:2], spare[:, 2:4]]
    pairs = torch.stack(links, dim=1)
    context = _hide(pairs, length, generator)
    if kind == "multi_hop":
        mark = torch.full((batch, 1), CHAIN)
        question, answer = torch.cat([mark, first[:, :1]], dim=1), first[:, 1:]
    else:
        asked = pairs[torch.arange(batch), torch.randint(PAIRS, (batch,), generator=generator)]
        mark = torch.full((batch, 1), ASK)
        question, answer = torch.cat([mark, asked[:, :1]], dim=1), asked[:, 1:]
    scored = torch.ones(answer.shape[1], dtype=torch.bool)
    return Recall(context=context, question=question, answer=answer, scored=scored)


def _lists(batch: int, length: int, generator: torch.Generator) -> Recall:
    values = _distinct(batch, SYMBOLS, PAIRS, generator)
    tags = torch.arange(TAGS, TAGS + PAIRS).expand(batch, -1)
    pairs = torch.stack([tags, values], dim=2)
    context = _hide(pairs, length, generator)
    which = torch.randint(2, (batch,), generator=generator)
    half = pairs.view(batch, 2, PAIRS // 2, 2)[torch.arange(batch), which]
    question = (LIST_A + which)[:, None]
    scored = torch.tensor([False, True] * (PAIRS // 2))
    return Recall(context=context, question=question, answer=half.flatten(1), scored=scored)


def lesson(batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Training sequences with several questions on one context: tokens [B, T] and targets.

    Targets are the next tokens, with -100 wherever the next token cannot be known.
    """
    tokens, targets = [], []
    for kind in ("multi_hop", "multi_value"):
        parts = _several(kind, batch // 2, length, generator)
        tokens.append(parts[0])
        targets.append(parts[1])
    width = max(t.shape[1] for t in tokens)
    filled = [F.pad(t, (0, width - t.shape[1]), value=START) for t in tokens]
    aims = [F.pad(t, (0, width - t.shape[1]), value=-100) for t in targets]
    return torch.cat(filled), torch.cat(aims)


def _several(
    kind: Kind, batch: int, length: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    recall = make(kind, batch, length, generator)
    parts, known = [recall.context], [torch.zeros_like(recall.context, dtype=torch.bool)]
    for question, answer in _questions(kind, recall, generator):
        parts += [question, answer]
        known += [torch.zeros_like(question, dtype=torch.bool)]
        known += [torch.ones_like(answer, dtype=torch.bool)]
    sequence, is_known = torch.cat(parts, dim=1), torch.cat(known, dim=1)
    target = torch.where(is_known, sequence, -100)[:, 1:]
    return sequence[:, :-1], target


def _questions(
    kind: Kind, recall: Recall, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    context = recall.context
    batch = context.shape[0]
    yield recall.question, recall.answer
    starts = (context < SYMBOLS) if kind == "multi_hop" else (context >= TAGS) & (context < START)
    if kind == "multi_hop":
        starts[:, 1:] &= ~starts.cumsum(1).remainder(2).eq(0)[:, 1:]
    for _ in range(6):
        at = torch.multinomial(starts.float(), 1, generator=generator)
        asked, told = context.gather(1, at), context.gather(1, at + 1)
        yield torch.cat([torch.full((batch, 1), ASK), asked], dim=1), told


def train_model(
    shape: TinyShape, *, seed: int, steps: int, length: int, batch: int = 16, lr: float = 2e-3
) -> tuple[TinyDecoder, list[float]]:
    """A tiny decoder taught the tasks with contexts that grow to ``length``; and its losses."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = TinyDecoder(shape)
    wire_induction(model, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    losses = []
    for step in range(steps):
        rate = min(1.0, (step + 1) / 50) * min(1.0, 2.0 * (1 - step / steps) + 0.02)
        for group in optimizer.param_groups:
            group["lr"] = lr * rate
        now = _grown(step / steps, length)
        tokens, targets = lesson(batch, now, generator)
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), losses


def wire_induction(model: TinyDecoder, generator: torch.Generator) -> None:
    """Start the model with an induction circuit: the copy of what followed an earlier equal token.

    A model this small can take tens of thousands of steps to find one. Layer 0, head 0 attends to
    the previous token (by its biases and the rotation alone) and writes a part P of that token's
    embedding into another subspace W; layer 1, head 0 matches its own P against W, in the channels
    that are not rotated, and copies what it finds. Training does the rest.
    """
    shape = model.sizes
    d, turned = shape.head_dim, shape.rotary_dim
    basis = torch.linalg.qr(torch.randn(shape.width, shape.width, generator=generator))[0].T
    part, written, copied = basis[:d], basis[d : 2 * d], basis[2 * d : 3 * d]
    first, second = (m for m in model.blocks[:2] if isinstance(m, TinyLayer))
    with torch.no_grad():
        for block in model.blocks:
            assert isinstance(block, TinyLayer)
            block.o.weight.mul_(0.1)
            block.down.weight.mul_(0.1)
        first.q.weight[:d] = first.k.weight[:d] = 0.0
        even = torch.zeros(1, 1, 1, d)
        even[..., :turned] = 6.0
        first.k.bias[:d] = even.flatten()
        first.q.bias[:d] = model.rotate(even, torch.tensor([-1])).flatten()
        first.v.weight[:d], first.o.weight[:, :d] = part, 0.3 * written.T
        second.q.weight[:d] = second.k.weight[:d] = 0.0
        second.q.weight[turned:d] = 4.0 * part[: d - turned]
        second.k.weight[turned:d] = written[: d - turned]
        second.v.weight[:d], second.o.weight[:, :d] = copied, copied.T
        model.head.weight.copy_(model.embedding.weight)


def _grown(done: float, length: int) -> int:
    """Context length in training: short at first, full after half the steps."""
    short = 3 * PAIRS
    return int(short + (length - short) * min(1.0, max(0.0, (done - 0.2) / 0.3)))
