"""The oracle: runs a trained program's forward pass on token batches that the scorer sends.

It never sees labels or validation text on disk; what it answers is untrusted and checked outside.
"""

import ctypes
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model
from torch import nn

from nightlab.sandbox.guest.spectra import probe
from nightlab.sandbox.guest.wire import Array

Answer = tuple[dict[str, object], list[Array]]
"""Plain facts and arrays."""


def settle() -> None:
    """Give freed memory back to the system, so that what is held can be seen from outside."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _attention_flops(
    q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: object, **__: object
) -> int:
    """Of softmax(q k^T) v by the shapes (B, H, T, d), which torch counts on GPUs only."""
    pairs = q[0] * q[1] * q[2] * k[2]
    return 2 * pairs * (q[3] + v[3])


def decodes(model: nn.Module) -> bool:
    """Whether it says that it has the decode contract, and has its functions."""
    needed = ("init_cache", "prefill", "step")
    there = all(callable(getattr(model, name, None)) for name in needed)
    return there and bool(getattr(model, "decodes", True))


class Oracle:
    """A trained program, ready to answer."""

    def __init__(self, program: ModuleType, weights: Path, device: str) -> None:
        recipe = program.Recipe()
        self.model: nn.Module = program.Model(recipe).to(device)
        load_model(self.model, str(weights), device=device)
        self.model.eval()
        self.context = int(recipe.context)
        self.device = device
        self.cache: object = None

    @property
    def facts(self) -> dict[str, object]:
        """What the host is told when it opens: a declaration that it checks."""
        return {
            "context": self.context,
            "decodes": decodes(self.model),
            "approximate": bool(getattr(self.model, "approximate", False)),
        }

    def answer(self, what: str, arrays: Sequence[Array], job: Mapping[str, Any]) -> Answer:
        """Answer one request of the host. Raises ValueError for one it does not know."""
        match what:
            case "logits":
                return {}, self.logits(arrays, int(job.get("start", 0)))
            case "prefill" | "step":
                return {}, self.decode(what, arrays)
            case "flops":
                return {}, self.flops(arrays)
            case "nothing":
                return {}, []
            case "settle" | "forget":
                self.cache = None if what == "forget" else self.cache
                settle()
                return {}, []
            case "spectra":
                return self.spectra(arrays, job)
            case other:
                raise ValueError(f"unknown request {other!r}")

    def logits(self, arrays: Sequence[Array], start: int = 0) -> list[Array]:
        """Tokens (B, T) to logits (B, T - start, V) in float32."""
        (tokens_BT,) = arrays
        tokens = torch.from_numpy(tokens_BT.astype(np.int64)).to(self.device)
        with torch.no_grad():
            return [self.model(tokens)[:, start:].float().cpu().numpy()]

    def decode(self, what: str, arrays: Sequence[Array]) -> list[Array]:
        """Read a new context (B, T), or one more token (B,): the logits (B, V) that follow."""
        (tokens,) = arrays
        tensor = torch.from_numpy(tokens.astype(np.int64)).to(self.device)
        model: Any = self.model
        with torch.no_grad():
            if what == "prefill":
                self.cache = None
                self.cache = model.init_cache(len(tokens))
                logits = model.prefill(tensor, self.cache)
            else:
                logits = model.step(tensor, self.cache)
            return [logits.float().cpu().numpy()]

    def flops(self, arrays: Sequence[Array]) -> list[Array]:
        """FLOPs (1,) of reading tokens (B, T) with the decode contract, or else of a forward
        pass, as torch counts them: two for each multiply and add of matrix products,
        convolutions and attention (all of it, the masked half too), none for the rest."""
        from torch.utils.flop_counter import FlopCounterMode  # it imports a second of modules

        on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
        with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
            if self.facts["decodes"]:
                self.decode("prefill", arrays)
            else:
                self.logits(arrays)
        self.cache = None
        return [np.array([counter.get_total_flops()], np.int64)]

    def spectra(self, arrays: Sequence[Array], job: Mapping[str, Any]) -> Answer:
        """Spectra on one probe batch of tokens (B, T): records and, if asked, eigenvalues."""
        (tokens_BT,) = arrays
        tokens = torch.from_numpy(tokens_BT.astype(np.int64)).to(self.device)
        return probe(self.model, tokens, int(job["batch"]), job)
