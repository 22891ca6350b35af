"""A Hugging Face causal language model as a :class:`nightlab.kernels.kv.contract.Decoder`.

The model keeps its own code. Its attention is switched to a registered function that hands
rotated queries, keys and values to our cache; a thin ``transformers`` cache carries ours into the
layers, and into ``model.generate``. Works for models in the Llama layout (``model.model.layers``
with ``self_attn.q_proj`` ... and ``mlp.gate_proj`` ...), query/key norms included. transformers
is imported when the first model is wrapped.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import cache as once
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from nightlab.kernels.kv.cache import KVCache
from nightlab.kernels.kv.contract import Attending, DecoderShape

if TYPE_CHECKING:
    from transformers import (  # type: ignore[import-not-found, unused-ignore]
        Cache,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

NAME = "nightlab_kv"
ROLES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_handed: ContextVar[Attending | None] = ContextVar("nightlab_kv_handed", default=None)
"""The cache that a layer's update has just named, for the attention call that follows it."""


def _attention(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, _mask: object, **options: object
) -> tuple[Tensor, None]:
    """The registered attention: [B, H, N, d] in, [B, N, H, d] out, as transformers expects."""
    refused = [x for x in ("softcap", "s_aux", "sliding_window") if options.get(x) is not None]
    if refused:
        raise ValueError(f"the cache's attention does not do {', '.join(refused)}")
    cache = _handed.get()
    _handed.set(None)
    if cache is None:
        cache = KVCache(int(cast("int", module.layer_idx)) + 1)
    out = cache.attend(int(cast("int", module.layer_idx)), q, k, v)
    return out.transpose(1, 2), None


@once
def _cache_class() -> "type[Cache]":
    """Register the attention and define the carrier; both need transformers."""
    from transformers import AttentionInterface, Cache

    AttentionInterface.register(NAME, _attention)

    class Carrier(Cache):  # type: ignore[misc, unused-ignore]
        """A transformers cache that stores nothing: it leads each layer's attention to ours."""

        def __init__(self, held: Attending) -> None:
            super().__init__(layers=[])
            self.held = held

        def update(
            self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
        ) -> tuple[Tensor, Tensor]:
            del layer_idx
            _handed.set(self.held)
            return key_states, value_states

        def get_seq_length(self, layer_idx: int = 0) -> int:
            del layer_idx
            return self.held.position

        def get_max_length(self, layer_idx: int | None = None) -> int:
            del layer_idx
            return -1

        @property
        def batch_size(self) -> int:
            return -1

        @property
        def is_linear(self) -> list[bool]:
            """No layer is recurrent: ``generate`` then feeds only what the cache has not seen."""
            return [False]

    return Carrier


def _keyword(body: nn.Module) -> str:
    """What a model calls its cache: another name since transformers 5.24."""
    return "cache" if "cache" in signature(body.forward).parameters else "past_key_values"


def carried(cache: Attending) -> "Cache":
    """Our cache in the form that a wrapped model's ``forward`` and ``generate`` take."""
    made: Cache = cast("Any", _cache_class())(cache)
    return made


class HuggingFaceDecoder(nn.Module):
    """Wraps a causal model in place: its attention implementation is switched to ours.

    Raises ValueError for models with sliding-window layers or another layout.
    """

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        _cache_class()
        self.causal = model
        body = getattr(model, "model", None)
        layers = getattr(body, "layers", None)
        if layers is None or not all(_has(layers[0], path) for path in ("self_attn.q_proj",)):
            raise ValueError(f"{type(model).__name__} is not in the Llama layout")
        kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise ValueError(
                f"layers of kind {sorted(kinds)} are not supported: full attention only"
            )
        model.set_attn_implementation(NAME)

    @property
    def _body(self) -> Any:
        return self.causal.model

    @property
    def shape(self) -> DecoderShape:
        config: Any = self.causal.config
        heads = config.num_attention_heads
        return DecoderShape(
            layers=config.num_hidden_layers,
            query_heads=heads,
            kv_heads=config.num_key_value_heads or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            width=config.hidden_size,
        )

    def init_cache(self, batch: int) -> KVCache:
        del batch  # rows are allocated when they come
        return KVCache(self.shape.layers)

    def prefill(self, tokens_BN: Tensor, cache: KVCache) -> Tensor:
        return self.logits(self.run(self.embed(tokens_BN), cache)[:, -1:])[:, 0]

    def step(self, tokens_B: Tensor, cache: KVCache) -> Tensor:
        return self.prefill(tokens_B[:, None], cache)

    def embed(self, tokens_BN: Tensor) -> Tensor:
        return cast("Tensor", self._body.embed_tokens(tokens_BN))

    def run(self, x_BND: Tensor, cache: Attending) -> Tensor:
        """All layers and the final norm, which these models do not separate."""
        start = cache.position
        at = torch.arange(start, start + x_BND.shape[1], device=x_BND.device)[None]
        held = {_keyword(self._body): carried(cache)}
        out = self._body(inputs_embeds=x_BND, position_ids=at, use_cache=True, **held)
        return cast("Tensor", out.last_hidden_state)

    def logits(self, x_BND: Tensor) -> Tensor:
        """The head alone: :meth:`run` has applied the norm."""
        head = cast("Any", self.causal).get_output_embeddings()
        return cast("Tensor", head(x_BND))

    def rotate(self, x_BHNd: Tensor, positions_N: Tensor) -> Tensor:
        cos, sin = self._body.rotary_emb(x_BHNd, positions_N[None])
        a, b = x_BHNd.chunk(2, dim=-1)
        return cast("Tensor", x_BHNd * cos[:, None] + torch.cat([-b, a], dim=-1) * sin[:, None])

    def linears(self) -> Sequence[Mapping[str, nn.Linear]]:
        return [
            {
                role: cast("nn.Linear", layer.get_submodule(path))
                for role, path in ROLES.items()
                if _has(layer, path)
            }
            for layer in self._body.layers
        ]


def load(path: Path) -> "tuple[HuggingFaceDecoder, PreTrainedTokenizerBase]":
    """A wrapped float32 model and its tokenizer, from a folder or one GGUF file; no network.

    Raises OSError or ValueError, in transformers' words, for what it cannot read.
    """
    import transformers

    where, more = (path.parent, {"gguf_file": path.name}) if path.suffix == ".gguf" else (path, {})
    only: Any = {"local_files_only": True, **more}
    tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(where, **only)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        where, dtype=torch.float32, **only
    )
    return HuggingFaceDecoder(model.eval()), tokenizer


def _has(layer: nn.Module, path: str) -> bool:
    try:
        return isinstance(layer.get_submodule(path), nn.Linear)
    except AttributeError:
        return False
