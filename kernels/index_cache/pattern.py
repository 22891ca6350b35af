"""Which layers own an indexer (F) and which reuse the nearest earlier set (S): IndexCache, 2.1."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class IndexPattern:
    """One letter a layer, ``F`` full or ``S`` shared; the first is ``F``.

    Raises ValueError on an empty pattern, other letters, or a first ``S``.
    """

    letters: str

    def __post_init__(self) -> None:
        if not self.letters or set(self.letters) - {"F", "S"}:
            raise ValueError(f"a pattern is a word over F and S, got {self.letters!r}")
        if self.letters[0] != "F":
            raise ValueError(f"the first layer has nothing to share, got {self.letters!r}")

    @classmethod
    def all_full(cls, n: int) -> "IndexPattern":
        """DSA: ``n`` layers, an indexer in each."""
        return cls("F" * n)

    @classmethod
    def from_freq(cls, n: int, freq: int, offset: int = 1) -> "IndexPattern":
        """0-based layer i is F iff ``max(i - offset + 1, 0) % freq == 0``.

        ``offset`` 1 is the paper's FSSS..., 2 the released code's FFSSS..., 3 GLM-5.2's FFFSSS...
        """
        if n < 1 or freq < 1 or offset < 1:
            raise ValueError(f"n, freq and offset are positive, got {n}, {freq}, {offset}")
        return cls("".join("S" if max(i - offset + 1, 0) % freq else "F" for i in range(n)))

    @classmethod
    def from_full_layers(cls, n: int, layers: Iterable[int]) -> "IndexPattern":
        """``n`` layers, F exactly at the given 0-based ones."""
        full = set(layers)
        if not full <= set(range(n)):
            raise ValueError(f"layers {sorted(full)} do not all lie in 0..{n - 1}")
        return cls("".join("F" if i in full else "S" for i in range(n)))

    def __len__(self) -> int:
        return len(self.letters)

    def __iter__(self) -> Iterator[str]:
        return iter(self.letters)

    def __str__(self) -> str:
        return self.letters

    def is_full(self, layer: int) -> bool:
        """Whether the 0-based layer owns an indexer. IndexError outside the pattern."""
        if not 0 <= layer < len(self.letters):
            raise IndexError(f"layer {layer} of a pattern with {len(self.letters)} layers")
        return self.letters[layer] == "F"

    def source(self, layer: int) -> int:
        """The layer whose set this layer uses: itself if F, else the nearest earlier F."""
        return layer if self.is_full(layer) else self.letters.rindex("F", 0, layer)

    def served(self, layer: int) -> tuple[int, ...]:
        """The layers that use this F layer's set, itself first. ValueError on an S layer."""
        if not self.is_full(layer):
            raise ValueError(f"layer {layer} of {self.letters} is S: it serves nobody")
        end = self.letters.find("F", layer + 1)
        return tuple(range(layer, len(self.letters) if end < 0 else end))

    def is_last_served(self, layer: int) -> bool:
        """Whether no later layer uses this layer's set: where an F layer's loss is complete."""
        return self.served(self.source(layer))[-1] == layer

    @property
    def full_layers(self) -> tuple[int, ...]:
        """0-based F layers, ascending."""
        return tuple(i for i, letter in enumerate(self.letters) if letter == "F")

    @property
    def retention(self) -> float:
        """Share of indexers kept, rho of the cost model."""
        return len(self.full_layers) / len(self.letters)

    def with_shared(self, layer: int) -> "IndexPattern":
        """The same pattern with one F layer turned to S."""
        if not self.is_full(layer):
            raise ValueError(f"layer {layer} of {self.letters} is S already")
        return IndexPattern(self.letters[:layer] + "S" + self.letters[layer + 1 :])

    def stage(self, start: int, stop: int) -> "IndexPattern":
        """Layers start..stop-1 as a pipeline stage, which must start with F."""
        return IndexPattern(self.letters[start:stop])


def flops_ratio(
    tokens: int, topk: int, heads: int, d_qk: int, d_v: int, index_heads: int, index_dim: int
) -> float:
    """r = C_idx / C_core of the cost model (1.4), from FLOPs alone."""
    return tokens * index_heads * index_dim / (2 * topk * heads * (d_qk + d_v))


def predicted_speedup(r: float, retention: float) -> float:
    """(1 + r) / (1 + rho r): how much faster than an indexer in every layer (1.4)."""
    return (1 + r) / (1 + retention * r)
