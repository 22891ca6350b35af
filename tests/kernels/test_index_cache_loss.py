"""The indexer's losses: the exact logit gradient, and one gradient for both multi-layer forms."""

import pytest
import torch
from torch import Tensor

from nightlab.kernels.index_cache import (
    BlockShape,
    IndexSet,
    LightningIndexer,
    Projections,
    attach_loss,
    indexer_kl_loss,
    reference,
    select_tokens,
    selected_logits,
    sparse_attention,
    warmup_kl_loss,
)


def projections(queries: int, keys: int) -> Projections:
    shapes = ((1, queries, 8, 4), (1, keys, 4), (1, queries, 8))
    q, k, w = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    return Projections(q, k, w)


def taught(made: Projections, topk: int, layers: int, offset: int) -> tuple[IndexSet, list[Tensor]]:
    index = select_tokens(made, topk, offset)
    index.logits = selected_logits(*made, index)
    targets = []
    for layer in range(layers):
        q, k, v = (torch.randn(1, 2, n, 4) for n in (index.queries, index.keys, index.keys))
        target = sparse_attention(q, k, v, index, return_target=True).target
        assert target is not None
        targets.append(target.double())
        index.add_target(layer, target)
    return index, targets


@pytest.mark.parametrize(("queries", "topk"), [(16, 8), (32, 16), (64, 32)])
def test_loss_and_gradients_equal_autograd_on_the_specification(queries: int, topk: int) -> None:
    made = projections(queries, queries + 3)
    index, (target,) = taught(made, topk, 1, 3)
    got = indexer_kl_loss(index)
    want = reference.kl_loss(reference.selected_logits(*made, index), target)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(got, made), torch.autograd.grad(want, made), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_the_logit_gradient_is_softmax_minus_target_over_rows() -> None:
    index, (target,) = taught(projections(12, 12), 5, 1, 0)
    assert index.logits is not None
    (grad,) = torch.autograd.grad(indexer_kl_loss(index), index.logits)
    probs = index.logits.detach().softmax(-1)
    torch.testing.assert_close(grad, (probs - target) / 12, rtol=1e-5, atol=1e-7)


def test_both_multi_layer_forms_have_one_gradient_and_differ_by_a_constant() -> None:
    index, targets = taught(projections(20, 20), 6, 3, 0)
    assert index.logits is not None
    avg, multi = indexer_kl_loss(index, "avg"), indexer_kl_loss(index, "multi")
    grads = [torch.autograd.grad(loss, index.logits, retain_graph=True)[0] for loss in (avg, multi)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)
    each = torch.stack([reference.kl_loss(index.logits, target) for target in targets])
    torch.testing.assert_close(multi, each.mean(), rtol=1e-5, atol=1e-6)
    assert (multi - avg).item() > 1e-3


def test_padded_rows_have_zero_loss_and_zero_gradient() -> None:
    index, _ = taught(projections(10, 10), 4, 1, 0)
    assert index.target_acc is not None
    assert index.logits is not None
    index.target_acc[:, 6:] = 0
    (grad,) = torch.autograd.grad(indexer_kl_loss(index), index.logits)
    assert (grad[:, 6:] == 0).all()
    assert (grad[:, 2:6] != 0).any()


def test_a_layer_that_is_recomputed_is_counted_once() -> None:
    index, (target,) = taught(projections(10, 10), 4, 1, 0)
    before = index.target_acc
    index.add_target(0, target.float())
    assert index.target_acc is before


def test_a_loss_without_logits_or_target_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs logits and a target"):
        indexer_kl_loss(select_tokens(projections(8, 8), 4))


@pytest.mark.parametrize("layers", [1, 3])
def test_the_chunked_warm_up_equals_autograd_on_full_attention(layers: int) -> None:
    made = projections(21, 21)
    heads = [
        (torch.randn(1, 4, 21, 6).double(), torch.randn(1, 2, 21, 6).double())
        for _ in range(layers)
    ]
    got = warmup_kl_loss(*made, heads, 0.4, chunk=8)
    future = torch.ones(21, 21, dtype=torch.bool).triu(1)
    probs = [
        (q @ k.repeat_interleave(2, 1).mT * 0.4)
        .masked_fill(future, float("-inf"))
        .softmax(-1)
        .mean(1)
        for q, k in heads
    ]
    want = reference.kl_loss(reference.indexer_logits(*made), torch.stack(probs).mean(0))
    torch.testing.assert_close(got, want)
    for mine, theirs in zip(
        torch.autograd.grad(got, made), torch.autograd.grad(want, made), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_the_selected_logit_gradient_passes_gradcheck_in_float64() -> None:
    made = projections(5, 8)
    index = select_tokens(made, 4, 3)
    assert torch.autograd.gradcheck(
        lambda q, k, w: selected_logits(q, k, w, index).nan_to_num(neginf=0.0), tuple(made)
    )


def test_block_logits_of_past_blocks_are_the_scores_they_were_selected_by() -> None:
    shape = BlockShape(block_q=8, block_k=8)
    indexer = LightningIndexer(16, 8, 8, topk=24, block=shape)
    index = indexer.select(torch.randn(2, 60, 16))
    assert index.logits is not None
    past = index.valid & (index.indices < torch.arange(8)[:, None])
    assert index.logits[past].isfinite().all()
    assert index.logits[~index.valid].isinf().all()
    torch.autograd.backward(index.logits[past].sum())
    assert indexer.query.weight.grad is not None
    assert indexer.query.weight.grad.abs().sum() > 0


def test_an_attached_loss_trains_without_changing_the_output() -> None:
    out = torch.randn(3, requires_grad=True)
    parameter = torch.tensor(2.0, requires_grad=True)
    attached = attach_loss(out, parameter.square(), 0.5)
    assert torch.equal(attached, out)
    torch.autograd.backward(attached.sum())
    assert parameter.grad is not None
    assert float(parameter.grad) == pytest.approx(2.0)
    assert out.grad is not None
    assert torch.equal(out.grad, torch.ones(3))
