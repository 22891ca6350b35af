"""The ops a model calls, and the choice of a path for each call, which ``explain()`` shows."""

from typing import Literal

from torch import Tensor

from nightlab.kernels.choice import record
from nightlab.kernels.index_cache import gather, masked, reference, triton_path
from nightlab.kernels.index_cache.index_set import IndexSet, Kind
from nightlab.kernels.index_cache.reference import Attended

Path = Literal["auto", "reference", "dense", "gather", "triton"]

TOKEN_BREAK_EVEN = 6.0
"""S / k above which gathering tokens for shared KV beats dense attention under the mask."""
TOKEN_BREAK_EVEN_PER_HEAD = 20.0
"""The same where few query heads share a KV head."""
BLOCK_BREAK_EVEN = 3.0
"""S / k above which gathering blocks beats dense attention under the mask."""
SHARED = 4
"""Query heads per KV head from which gathered tokens count as shared."""


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: IndexSet,
    scale: float | None = None,
    return_lse: bool = False,
    return_target: bool = False,
    path: Path = "auto",
) -> Attended:
    """Causal attention of q [B,H,T,D] over the selected keys of k [B,N,S,D] and v [B,N,S,Dv].

    N divides H: MHA, GQA or MQA. ``scale`` is D^-0.5 by default. A query without a valid key gives
    0 and log-sum-exp +inf; keys that nobody selected get exactly zero gradient. ``lse`` and
    ``target`` carry no gradient. All paths give the same values; ValueError on shapes that do not
    fit the index, or a path that cannot run.
    """
    _check(q, k, v, index)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    chosen, reason = _choose(q, k, index, path)
    record("index_cache.sparse_attention", chosen, reason)
    if chosen == "triton":
        attended = triton_path.attention(q, k, v, index, scale, return_target)
    elif chosen == "gather":
        attended = gather.attention(q, k, v, index, scale, return_target)
    elif chosen == "dense":
        attended = masked.attention(q, k, v, index, scale, return_lse, return_target)
    else:
        attended = reference.attention(q, k, v, index, scale)
    lse = attended.lse.detach() if return_lse and attended.lse is not None else None
    return Attended(attended.out, lse, attended.target if return_target else None)


def _choose(q: Tensor, k: Tensor, index: IndexSet, path: Path) -> tuple[Path, str]:
    if path not in ("auto", "triton"):
        return path, "asked for"
    use_triton, reason = triton_path.usable(q, path)
    if index.everything and path == "auto":
        return "dense", "every causal key is selected"
    if use_triton:
        return "triton", reason
    ratio = index.keys / index.reach
    if index.kind is Kind.BLOCK:
        bound = BLOCK_BREAK_EVEN
    else:
        shared = q.shape[1] // k.shape[1] >= SHARED
        bound = TOKEN_BREAK_EVEN if shared else TOKEN_BREAK_EVEN_PER_HEAD
    side = "above" if ratio >= bound else "below"
    why = f"{reason}; S/k = {ratio:.1f} is {side} the break-even {bound:g}"
    return ("gather" if ratio >= bound else "dense"), why


def _check(q: Tensor, k: Tensor, v: Tensor, index: IndexSet) -> None:
    if q.shape[1] % k.shape[1] or k.shape[:3] != v.shape[:3] or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} do not fit")
    expected = (index.indices.shape[0], index.queries, index.keys)
    if (q.shape[0], q.shape[2], k.shape[2]) != expected:
        raise ValueError(
            f"an index for batch, queries, keys {expected}, got q {tuple(q.shape)} and "
            f"k {tuple(k.shape)}"
        )
