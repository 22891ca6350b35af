"""The per-forward carrier of index sets from F layers to the S layers behind them."""

import torch
from torch import Tensor

from nightlab.kernels.index_cache.index_set import IndexSet
from nightlab.kernels.index_cache.loss import Form, indexer_kl_loss
from nightlab.kernels.index_cache.pattern import IndexPattern


class IndexCache:
    """Sets published by F layers during one forward of one microbatch.

    Create a new one for every forward and pass it down; never keep it in a module, or recompute
    and interleaved microbatches would see each other's sets.
    """

    def __init__(self, pattern: IndexPattern) -> None:
        self.pattern = pattern
        self._sets: dict[int, IndexSet] = {}

    def publish(self, layer: int, index: IndexSet) -> IndexSet:
        """Offer an F layer's set to the layers it serves; the first set published stays.

        ValueError if the layer is S.
        """
        if not self.pattern.is_full(layer):
            raise ValueError(f"layer {layer} of {self.pattern} is S: it publishes nothing")
        return self._sets.setdefault(layer, index)

    def fetch(self, layer: int) -> IndexSet:
        """The set a layer attends with. LookupError if its source has not published."""
        source = self.pattern.source(layer)
        if source not in self._sets:
            raise LookupError(f"layer {layer} needs the set of layer {source}, not yet published")
        return self._sets[source]

    def known(self, layer: int) -> IndexSet | None:
        """The set this F layer published earlier in the same forward: not None on a recompute."""
        return self._sets.get(layer)

    def index_loss(self, form: Form = "avg") -> Tensor:
        """Sum of the KL losses of all published sets: add it to the model's loss.

        Leave ``attach=False`` layers to this; ValueError if no set has a target.
        """
        losses = [
            indexer_kl_loss(index, form) for index in self._sets.values() if index.target_layers
        ]
        if not losses:
            raise ValueError("no layer has attended with return_target in this forward")
        return torch.stack(losses).sum()
