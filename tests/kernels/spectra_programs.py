"""Tiny language models whose feed-forwards are written in many ways; each keeps the truth.

``TinyLM(ffn)`` puts the given feed-forward behind attention in each block. A feed-forward appends
what it really computed before and after its activation to ``truth``.
"""

# mypy: disable-error-code="no-untyped-call,no-any-return"
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Truth = list[tuple[Tensor, Tensor]]
D = 16
HIDDEN = 40
TOKENS = 24
VOCABULARY = 32


class FeedForward(nn.Module):
    """What all variants share: where they note the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.truth: Truth = []

    def note(self, pre: Tensor, post: Tensor) -> Tensor:
        self.truth.append((pre.detach().clone(), post.detach().clone()))
        return post


class Plain(FeedForward):
    """Two linear layers and a GELU, as in GPT-2."""

    def __init__(self, act: Callable[[Tensor], Tensor] = functional.gelu) -> None:
        super().__init__()
        self.fc, self.proj, self.act = nn.Linear(D, HIDDEN), nn.Linear(HIDDEN, D), act

    def forward(self, x: Tensor) -> Tensor:
        pre = self.fc(x)
        kept = pre.detach().clone()
        post = self.act(pre)
        self.truth.append((kept, post.detach().clone()))
        return self.proj(post)


class Llama(FeedForward):
    """silu(gate) * up, as in LLaMA."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(D, HIDDEN, bias=False)
        self.up_proj = nn.Linear(D, HIDDEN, bias=False)
        self.down_proj = nn.Linear(HIDDEN, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        return self.down_proj(self.note(gate, functional.silu(gate) * self.up_proj(x)))


class UpFirst(Llama):
    """The same, with the ungated branch computed first."""

    def forward(self, x: Tensor) -> Tensor:
        up = self.up_proj(x)
        gate = self.gate_proj(x)
        return self.down_proj(self.note(gate, up * functional.silu(gate)))


class Fused(FeedForward):
    """One projection for gate and up, cut in two by ``chunk``, as in Phi-3."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up = nn.Linear(D, 2 * HIDDEN)
        self.down = nn.Linear(HIDDEN, D)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(self.note(gate, functional.gelu(gate) * up))


class Interleaved(Fused):
    """Gate and up in alternating columns, cut by indexing."""

    def forward(self, x: Tensor) -> Tensor:
        both = self.gate_up(x)
        gate, up = both[..., ::2], both[..., 1::2]
        return self.down(self.note(gate, gate * torch.sigmoid(gate) * (up + 1)))


class Glu(Fused):
    """``functional.glu``, whose gate is the second half."""

    def forward(self, x: Tensor) -> Tensor:
        both = self.gate_up(x)
        return self.down(self.note(both[..., HIDDEN:], functional.glu(both)))


class Functional(FeedForward):
    """Bare parameters and matmuls, no linear modules, bias added apart."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(D, HIDDEN) / 4)
        self.b1 = nn.Parameter(torch.randn(HIDDEN))
        self.w2 = nn.Parameter(torch.randn(D, HIDDEN) / 6)

    def forward(self, x: Tensor) -> Tensor:
        pre = x @ self.w1 + self.b1
        return functional.linear(self.note(pre, torch.relu(pre) ** 2), self.w2)


class Einsum(FeedForward):
    """Einsum with weights that are scaled on the fly."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(D, HIDDEN))
        self.w2 = nn.Parameter(torch.randn(HIDDEN, D))

    def forward(self, x: Tensor) -> Tensor:
        pre = torch.einsum("btd,dh->bth", x, self.w1 * D**-0.5)
        return torch.einsum("bth,hd->btd", self.note(pre, torch.tanh(pre)), self.w2 * 0.1)


class Conv1D(FeedForward):
    """addmm on flattened tokens with a view back, as Hugging Face's GPT-2 does."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = (
            nn.Parameter(torch.randn(D, HIDDEN) / 4),
            nn.Parameter(torch.zeros(HIDDEN)),
        )
        self.w2, self.b2 = nn.Parameter(torch.randn(HIDDEN, D) / 6), nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        pre = torch.addmm(self.b1, x.view(-1, D), self.w1).view(*x.shape[:-1], HIDDEN)
        cube = pre + 0.044715 * torch.pow(pre, 3.0)
        post = self.note(pre, 0.5 * pre * (1.0 + torch.tanh(0.79788456 * cube)))
        return torch.addmm(self.b2, post.view(-1, HIDDEN), self.w2).view(x.shape)


class CustomGradient(FeedForward):
    """An activation with an autograd function of its own."""

    class Act(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: object, x: Tensor) -> Tensor:
            return torch.relu(x)

        @staticmethod
        def backward(_ctx: object, *grads: Tensor) -> Tensor:
            return grads[0]

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, HIDDEN), nn.Linear(HIDDEN, D)

    def forward(self, x: Tensor) -> Tensor:
        pre = self.up(x)
        return self.down(self.note(pre, self.Act.apply(pre)))


class Mixture(FeedForward):
    """A mixture of experts with top-1 routing, tokens gathered and scattered, as in Mixtral."""

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.router = nn.Linear(D, experts)
        self.experts = nn.ModuleList(Llama() for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, D)
        weight, choice = self.router(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows = (choice == number).nonzero().squeeze(-1)
            if len(rows):
                out.index_add_(0, rows, expert(flat[rows]) * weight[rows, None])
        return out.view(x.shape)


class BatchedMixture(FeedForward):
    """All experts of a mixture in one batched matmul, every expert on every token."""

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.router = nn.Linear(D, experts)
        self.up = nn.Parameter(torch.randn(experts, D, HIDDEN) / 4)
        self.down = nn.Parameter(torch.randn(experts, HIDDEN, D) / 6)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(1, -1, D).expand(len(self.up), -1, -1)
        pre_END = torch.bmm(flat, self.up)
        post_END = functional.gelu(pre_END)
        for pre, post in zip(pre_END, post_END, strict=True):
            self.note(pre, post)
        weight = self.router(x.reshape(-1, D)).softmax(-1).T[..., None]
        return (torch.bmm(post_END, self.down) * weight).sum(0).view(x.shape)


class LoopedMixture(BatchedMixture):
    """The same parameters, one expert after another, as GPT-OSS does in training."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, D)
        weight = self.router(flat).softmax(-1)
        out = torch.zeros_like(flat)
        for number in torch.arange(len(self.up)):
            pre = flat @ self.up[number]
            post = self.note(pre, functional.gelu(pre))
            out = out + post @ self.down[number] * weight[:, number, None]
        return out.view(x.shape)


class Norm(nn.Module):
    """A root-mean-square norm written out, which looks like a product with a nonlinearity."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Squash(nn.Module):
    """A norm replaced by a tanh, which looks like an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(0.7 * x)


class Attention(nn.Module):
    """Two heads, rotary-style mixing left out, the output gated by a sigmoid if asked."""

    def __init__(self, gated: bool = False) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.gate = nn.Linear(D, D) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 2, D // 2).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2) / 3).masked_fill(
            torch.ones(t, t, dtype=torch.bool).triu(1), -1e9
        )
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, D)
        if self.gate is not None:
            mixed = mixed * torch.sigmoid(self.gate(x))
        return self.out(mixed)


class Block(nn.Module):
    """Attention and a feed-forward, in sequence or side by side."""

    def __init__(
        self, ffn: nn.Module, norm: Callable[[], nn.Module], parallel: bool, gated: bool
    ) -> None:
        super().__init__()
        self.norm1, self.norm2, self.ffn = norm(), norm(), ffn
        self.attention, self.parallel = Attention(gated), parallel

    def forward(self, x: Tensor) -> Tensor:
        if self.parallel:
            return x + self.attention(self.norm1(x)) + self.ffn(self.norm2(x))
        x = x + self.attention(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class TinyLM(nn.Module):
    """A language model of a few blocks over a vocabulary of 32."""

    def __init__(
        self,
        ffn: Callable[[], nn.Module],
        *,
        layers: int = 2,
        norm: Callable[[], nn.Module] = lambda: nn.LayerNorm(D),
        parallel: bool = False,
        gated: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, D)
        self.position = nn.Parameter(torch.randn(TOKENS, D))
        blocks = [Block(ffn(), norm, parallel, gated) for _ in range(layers)]
        self.blocks, self.drop = nn.ModuleList(blocks), nn.Dropout(dropout)
        self.norm, self.head = norm(), nn.Linear(D, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.drop(self.embed(tokens) + self.position[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def truth(self) -> Truth:
        """What the feed-forwards noted, in order of depth."""
        parts = [m for m in self.modules() if isinstance(m, FeedForward)]
        return [pair for part in parts for pair in part.truth]
