"""The score formula: its meaning, its symmetries and its gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nightlab.kernels.kv.compact import KVCompact, compact_attention
from nightlab.kernels.kv.scores import (
    Group,
    Over,
    Reduction,
    attention_rows,
    cumulative_scores,
    differentiable_scores,
    lookahead_scores,
    reduce_heads,
    scored_attention,
)
from nightlab.kernels.kv.selection import even_lengths, select_rows

sizes = st.tuples(
    st.integers(1, 5), st.integers(1, 23), st.sampled_from([1, 2, 4]), st.integers(0, 999)
)


def case(n: int, T: int, group: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 2 * group, n, 8, generator=g)
    return q, torch.randn(2, 2, T, 8, generator=g), torch.randn(2, 2, n, 8, generator=g)


@given(sizes)
@settings(max_examples=40, deadline=None)
def test_scores_are_shares_of_attention_and_the_rest_lies_on_own_keys(
    size: tuple[int, int, int, int],
) -> None:
    q, k, own = case(*size)
    s = lookahead_scores(q, k, own)
    assert bool((s >= 0).all())
    assert bool((s.sum(dim=-1) <= 1 + 1e-5).all())
    rest = attention_rows(q, k, own)[..., k.shape[2] :].sum(dim=-1).mean(dim=2)
    total = s.sum(dim=-1) + reduce_heads(rest[..., None], 2, "mean")[..., 0]
    torch.testing.assert_close(total, torch.ones_like(total))


@given(sizes)
@settings(max_examples=30, deadline=None)
def test_one_query_without_own_keys_gives_its_attention_row(
    size: tuple[int, int, int, int],
) -> None:
    q, k, own = case(*size)
    q = q[:, :, :1]
    s = lookahead_scores(q, k, own[:, :, :0], keep_heads=True)
    wide = k.repeat_interleave(q.shape[1] // 2, dim=1)
    row = torch.softmax(q @ wide.transpose(-1, -2) * 8**-0.5, dim=-1)[:, :, 0]
    torch.testing.assert_close(s, row)


@given(
    size=sizes,
    group=st.sampled_from(["mean", "max", "sum"]),
    over=st.sampled_from(["mean", "max"]),
)
@settings(max_examples=40, deadline=None)
def test_one_pass_gives_the_scores_and_the_output_of_two(
    size: tuple[int, int, int, int], group: Group, over: Over
) -> None:
    q, k, own = case(*size)
    v, own_v = k.flip(2) + 0.5, own.flip(2) - 0.5
    s, out = scored_attention(q, k, v, own, own_v, Reduction(group, over))
    torch.testing.assert_close(s, lookahead_scores(q, k, own, group=group, over=over))
    plain = compact_attention(q, KVCompact.dense(k, v), own, own_v)
    torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-5)


@given(sizes)
@settings(max_examples=30, deadline=None)
def test_permuting_the_keys_permutes_the_scores(size: tuple[int, int, int, int]) -> None:
    q, k, own = case(*size)
    order = torch.randperm(k.shape[2], generator=torch.Generator().manual_seed(size[3]))
    torch.testing.assert_close(
        lookahead_scores(q, k[:, :, order], own), lookahead_scores(q, k, own)[..., order]
    )


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    q, k, own = case(4, 19, 2, 0)
    # A shared channel of keys meets a constant channel of queries: every logit moves alike.
    q, k, own = (torch.nn.functional.pad(x, (0, 1)) for x in (q, k, own))
    plain = lookahead_scores(q, k, own)
    q[..., -1], k[..., -1], own[..., -1] = 3.0, 5.0, 5.0
    torch.testing.assert_close(lookahead_scores(q, k, own), plain, rtol=1e-4, atol=1e-6)


@given(sizes)
@settings(max_examples=30, deadline=None)
def test_repeating_key_heads_leaves_each_query_head_as_it_was(
    size: tuple[int, int, int, int],
) -> None:
    q, k, own = case(*size)
    wide, wide_own = (x.repeat_interleave(size[2], dim=1) for x in (k, own))
    torch.testing.assert_close(
        lookahead_scores(q, wide, wide_own), lookahead_scores(q, k, own, keep_heads=True)
    )


@given(sizes)
@settings(max_examples=25, deadline=None)
def test_later_queries_see_earlier_own_keys_and_never_the_reverse(
    size: tuple[int, int, int, int],
) -> None:
    q, k, own = case(*size)
    rows = attention_rows(q, k, own)[..., k.shape[2] :]
    assert bool((rows.triu(1) == 0).all())
    assert bool((rows.diagonal(dim1=-2, dim2=-1) > 0).all())


@given(st.integers(0, 99), st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_cumulative_scores_are_the_column_sums_of_causal_attention(seed: int, T: int) -> None:
    g = torch.Generator().manual_seed(seed)
    q, k = torch.randn(1, 4, T, 8, generator=g), torch.randn(1, 2, T, 8, generator=g)
    z = q @ k.repeat_interleave(2, dim=1).transpose(-1, -2) * 8**-0.5
    z = z.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
    columns = torch.softmax(z, dim=-1).sum(dim=2)
    ours = cumulative_scores(q, k, block=7)
    torch.testing.assert_close(ours, reduce_heads(columns, 2, "mean"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group", [1, 3])
def test_the_closed_form_gradient_passes_gradcheck_in_double_precision(group: int) -> None:
    g = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2 * group, 3, 4, generator=g, dtype=torch.float64, requires_grad=True)
    own = torch.randn(1, 2, 3, 4, generator=g, dtype=torch.float64, requires_grad=True)
    k = torch.randn(1, 2, 6, 4, generator=g, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda q, own: differentiable_scores(q, k, own), (q, own))


def test_the_closed_form_gradient_equals_that_of_the_written_out_rows() -> None:
    q, k, own = case(4, 19, 2, 1)
    grads = []
    for fn in (differentiable_scores, lambda *x: lookahead_scores(*x, keep_heads=True)):
        a, b = q.clone().requires_grad_(), own.clone().requires_grad_()
        weight = torch.linspace(0, 1, 19)
        torch.autograd.backward((fn(a, k, b) * weight).sum())
        assert a.grad is not None
        assert b.grad is not None
        grads.append((a.grad, b.grad))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 999), st.integers(1, 23))
@settings(max_examples=30, deadline=None)
def test_no_scores_keep_more_of_the_true_mass_than_the_oracle(seed: int, budget: int) -> None:
    q, k, own = case(4, 23, 2, seed)
    truth = lookahead_scores(q, k, own)
    other = torch.rand(truth.shape, generator=torch.Generator().manual_seed(seed))
    mass = [
        (truth * select_rows(s, even_lengths(s, budget)).mask(23)).sum(dim=-1)
        for s in (truth, other)
    ]
    assert bool((mass[0] >= mass[1] - 1e-6).all())
