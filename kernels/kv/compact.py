"""Packed key/value rows with one length per head, and attention over them.

Rows of all heads of a layer lie one after another, so a head that keeps fewer tokens occupies
less memory: nothing is padded in storage. R is the number of rows, S = B * G the number of
(sequence, key/value head) segments.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class KVCompact:
    """The kept rows of one layer."""

    k: Tensor
    """[R, d]: keys, already rotated at their original positions."""
    v: Tensor
    """[R, d]."""
    lengths: Tensor
    """[B, G]: rows of each segment (int64)."""
    pos: Tensor | None
    """[R]: original positions (int32), ascending within a segment; None means 0, 1, 2 ..."""
    even: int | None
    """The common length, when all segments have the same."""

    @staticmethod
    def dense(k_BGTd: Tensor, v_BGTd: Tensor) -> "KVCompact":
        """All T rows of every head; keeps the given storage when it is contiguous."""
        B, G, T, d = k_BGTd.shape
        lengths = torch.full((B, G), T, dtype=torch.int64, device=k_BGTd.device)
        k_Rd, v_Rd = (x.contiguous().view(B * G * T, d) for x in (k_BGTd, v_BGTd))
        return KVCompact(k_Rd, v_Rd, lengths, None, T)

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values, positions and lengths."""
        held = (self.k, self.v, self.lengths, self.pos)
        return sum(t.untyped_storage().nbytes() for t in held if t is not None)

    def starts(self) -> Tensor:
        """First row of each segment, and the row count at the end: [S + 1]."""
        return F.pad(self.lengths.flatten().cumsum(0), (1, 0))

    def padded(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values [B, G, L, d] and, when heads differ, which rows are real [B, G, L]."""
        B, G = self.lengths.shape
        d = self.k.shape[1]
        if self.even is not None:
            shape = (B, G, self.even, d)
            return self.k.view(shape), self.v.view(shape), None
        longest = int(self.lengths.max())
        column_L = torch.arange(longest, device=self.k.device)
        real_BGL = column_L < self.lengths[..., None]
        row_BGL = self.starts()[:-1].view(B, G, 1) + column_L
        row_BGL = row_BGL.clamp(max=max(self.k.shape[0] - 1, 0))
        return self.k[row_BGL], self.v[row_BGL], real_BGL


def gather_rows(k_BGTd: Tensor, v_BGTd: Tensor, index_R: Tensor, lengths_BG: Tensor) -> KVCompact:
    """Copy the rows that ``index_R`` names (positions, segment after segment) of a dense cache.

    The reference twin of :func:`nightlab.kernels.kv.compact_triton.gather_rows`. Source: the
    compaction of LookaheadKV, arXiv 2603.10899, section 3, for lengths that differ by head.
    """
    B, G, T, d = k_BGTd.shape
    even = common_length(lengths_BG)
    start_S = torch.arange(0, B * G * T, T, device=k_BGTd.device)
    if even is None:
        rows = index_R.shape[0]
        row_R = index_R + start_S.repeat_interleave(lengths_BG.flatten(), output_size=rows)
    else:
        row_R = (index_R.view(B * G, even) + start_S[:, None]).flatten()
    k_Rd, v_Rd = (x.reshape(B * G * T, d).index_select(0, row_R) for x in (k_BGTd, v_BGTd))
    return KVCompact(k_Rd, v_Rd, lengths_BG, index_R.to(torch.int32), even)


def common_length(lengths_BG: Tensor) -> int | None:
    """The length all segments share, or None."""
    low, high = int(lengths_BG.min()), int(lengths_BG.max())
    return low if low == high else None


def compact_attention(
    q_BHNd: Tensor, kept: KVCompact, tail_k_BGtd: Tensor, tail_v_BGtd: Tensor
) -> Tensor:
    """Attention of N queries over kept rows and a dense tail whose last N rows are their own.

    Softmax in float32, scale ``d ** -0.5``. Queries see every kept row, and the tail causally.
    Keys keep their original rotation, so no position enters here. Returns [B, H, N, d].
    """
    B, H, N, d = q_BHNd.shape
    G, t = tail_k_BGtd.shape[1:3]
    k_BGLd, v_BGLd, real_BGL = kept.padded()
    q_BGMd = q_BHNd.reshape(B, G, (H // G) * N, d) * d**-0.5
    far = (q_BGMd @ k_BGLd.transpose(-1, -2)).float()
    if real_BGL is not None:
        far = far.masked_fill(~real_BGL[:, :, None], float("-inf"))
    near = (q_BGMd @ tail_k_BGtd.transpose(-1, -2)).float().view(B, G, H // G, N, t)
    if N > 1:
        future = torch.ones(N, t, dtype=torch.bool, device=near.device).triu(t - N + 1)
        near = near.masked_fill(future, float("-inf"))
    weight = torch.softmax(torch.cat([far, near.view(B, G, -1, t)], dim=-1), dim=-1)
    weight = weight.to(v_BGLd.dtype)
    L = k_BGLd.shape[2]
    out = weight[..., :L] @ v_BGLd + weight[..., L:] @ tail_v_BGtd
    return out.view(B, H, N, d)
