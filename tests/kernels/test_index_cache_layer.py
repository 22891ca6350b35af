"""Stacks of layers that share index sets, as a program in a sandbox builds them."""

import gc
import weakref
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nightlab.kernels.index_cache import (
    BlockShape,
    IndexCache,
    IndexPattern,
    IndexSet,
    SparseAttention,
    every_key,
)

BLOCK = BlockShape(block_q=8, block_k=8)


class Stack(nn.Module):
    """A model of nothing but shared sparse attention."""

    def __init__(
        self,
        pattern: str,
        block: BlockShape | None = None,
        teach: Literal["served", "own", "nothing"] = "served",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.pattern, self.recompute = IndexPattern(pattern), recompute
        self.layers = nn.ModuleList(
            SparseAttention(32, 4, self.pattern, i, topk=16, block=block, teach=teach)
            for i in range(len(pattern))
        )
        self.cache: IndexCache | None = None

    def forward(self, x: Tensor) -> Tensor:
        cache = IndexCache(self.pattern)
        for layer in self.layers:
            if self.recompute:
                step = checkpoint(layer, x, cache, use_reentrant=False)
                assert isinstance(step, Tensor)
                x = x + step
            else:
                x = x + layer(x, cache)
        return x


def grads(model: Stack, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.autograd.backward(model(x).square().mean())
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("block", [None, BLOCK])
def test_recompute_under_checkpointing_gives_the_same_gradients(block: BlockShape | None) -> None:
    model, x = Stack("FSSF", block), torch.randn(2, 60, 32)
    plain = grads(model, x)
    model.recompute = True
    recomputed = grads(model, x)
    assert plain.keys() == recomputed.keys() == dict(model.named_parameters()).keys()
    for name, grad in plain.items():
        torch.testing.assert_close(recomputed[name], grad, rtol=1e-6, atol=1e-7)


def test_a_second_publication_keeps_the_first_set() -> None:
    cache = IndexCache(IndexPattern("FS"))
    first = every_key(1, 4, 4, 0, torch.device("cpu"))
    assert cache.publish(0, first) is first
    assert cache.publish(0, every_key(1, 4, 4, 0, torch.device("cpu"))) is first
    assert cache.fetch(1) is first


def test_shared_layers_own_no_indexer_parameters() -> None:
    model = Stack("FSSF")
    owners = {name.split(".")[1] for name, _ in model.named_parameters() if "indexer" in name}
    assert owners == {"0", "3"}


def test_a_checkpoint_with_an_indexer_for_a_shared_layer_is_refused() -> None:
    dense, shared = Stack("FFFF"), Stack("FSSF")
    with pytest.raises(ValueError, match="owns no indexer"):
        shared.load_state_dict(dense.state_dict(), strict=False)
    shared.load_state_dict(Stack("FSSF").state_dict())


def test_a_layer_before_its_source_and_a_shared_publisher_are_errors() -> None:
    cache = IndexCache(IndexPattern("FS"))
    with pytest.raises(LookupError, match="not yet published"):
        cache.fetch(1)
    index = IndexSet(indices=torch.zeros(1, 1, 1, dtype=torch.int32), queries=1, keys=1)
    with pytest.raises(ValueError, match="publishes nothing"):
        cache.publish(1, index)


@pytest.mark.parametrize("block", [None, BLOCK])
def test_no_output_depends_on_a_later_token(block: BlockShape | None) -> None:
    model = Stack("FSSF", block).eval()
    x = torch.randn(1, 64, 32)
    before = model(x)
    for cut in (1, 20, 47):
        changed = x.clone()
        changed[:, cut:] = torch.randn(1, 64 - cut, 32)
        torch.testing.assert_close(model(changed)[:, :cut], before[:, :cut])


@pytest.mark.parametrize("block", [None, BLOCK])
def test_the_indexer_learns_from_its_loss_alone_and_the_model_from_its_own(
    block: BlockShape | None,
) -> None:
    torch.manual_seed(0)
    model, x = Stack("FSSS", block), torch.randn(2, 64, 32)
    taught = grads(model, x)
    for layer in model.layers:
        assert isinstance(layer, SparseAttention)
        layer.loss_weight = 0.0
    alone = grads(model, x)
    for name, grad in taught.items():
        if "indexer" in name:
            assert grad.abs().sum() > 0
            assert alone[name].abs().sum() == 0
        else:
            assert torch.equal(grad, alone[name])


def test_teaching_by_all_served_layers_differs_from_teaching_by_its_own() -> None:
    x = torch.randn(1, 40, 32)
    by = {}
    for teach in ("served", "own"):
        torch.manual_seed(0)
        by[teach] = grads(Stack("FSSS", teach=teach), x)["layers.0.indexer.query.weight"]
    assert not torch.allclose(by["served"], by["own"])
    assert by["own"].abs().sum() > 0


def test_training_the_indexer_lowers_its_loss() -> None:
    torch.manual_seed(0)
    pattern = IndexPattern("FS")
    layers = [SparseAttention(32, 4, pattern, i, topk=16) for i in range(2)]
    assert layers[0].indexer is not None
    optimizer = torch.optim.Adam(layers[0].indexer.parameters(), 3e-3)
    x, losses = torch.randn(2, 64, 32), []
    for _ in range(30):
        cache = IndexCache(pattern)
        for layer in layers:
            layer(x, cache)
        loss = cache.index_loss()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("block", [None, BLOCK])
def test_a_forwards_sets_are_freed_without_a_garbage_collection(block: BlockShape | None) -> None:
    pattern = IndexPattern("FS")
    layers = [SparseAttention(32, 4, pattern, i, topk=16, block=block) for i in range(2)]
    gc.collect()
    gc.disable()
    try:
        cache, x = IndexCache(pattern), torch.randn(1, 40, 32)
        for layer in layers:
            x = x + layer(x, cache)
        alive = weakref.ref(cache.fetch(0))
        assert cache.fetch(0).logits is not None
        del cache, x
        assert alive() is None
    finally:
        gc.enable()


def test_a_module_keeps_no_set_between_forwards() -> None:
    model = Stack("FS").eval()
    a, b = torch.randn(1, 40, 32), torch.randn(1, 40, 32)
    first = model(a)
    model(b)
    assert torch.equal(model(a), first)
