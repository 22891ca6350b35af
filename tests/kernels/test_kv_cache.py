"""The cache: what is evicted is gone, what stays is attended as a mask would have it."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nightlab.kernels.kv import DecodeProgram, KVCache, Probe, read_prompt
from nightlab.kernels.kv.compact import KVCompact, compact_attention, gather_rows
from nightlab.kernels.kv.decoder import TinyDecoder, TinyShape
from nightlab.kernels.kv.selection import select_rows

T = 21


def tiny() -> TinyDecoder:
    torch.manual_seed(0)
    return TinyDecoder(TinyShape(vocabulary=40, layers=3, head_dim=8, hidden=32)).eval()


def prompt_tokens(length: int = T) -> Tensor:
    return torch.randint(0, 40, (2, length), generator=torch.Generator().manual_seed(1))


class MaskedCache:
    """A whole cache that hides prompt rows by a mask [B, G, T] per layer: the slow truth."""

    def __init__(self, hidden: list[Tensor]) -> None:
        self.hidden, self.position = hidden, 0
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []
        self.seen = [0] * len(hidden)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if len(self.k) == layer:
            self.k.append(k)
            self.v.append(v)
        else:
            self.k[layer] = torch.cat([self.k[layer], k], dim=2)
            self.v[layer] = torch.cat([self.v[layer], v], dim=2)
        start, self.seen[layer] = self.seen[layer], self.seen[layer] + k.shape[2]
        group = q.shape[1] // k.shape[1]
        z = q @ self.k[layer].repeat_interleave(group, 1).transpose(-1, -2) * q.shape[-1] ** -0.5
        at = torch.arange(self.seen[layer])
        z = z.masked_fill(at > start + torch.arange(q.shape[2])[:, None], -torch.inf)
        if start > 0:
            hide = self.hidden[layer].repeat_interleave(group, 1)[:, :, None]
            z[..., : hide.shape[-1]] = z[..., : hide.shape[-1]].masked_fill(hide, -torch.inf)
        if layer == len(self.hidden) - 1:
            self.position += k.shape[2]
        return torch.softmax(z, dim=-1) @ self.v[layer].repeat_interleave(group, 1)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_decoding_after_eviction_equals_hiding_the_evicted_rows(seed: int, ragged: bool) -> None:
    model, tokens = tiny(), prompt_tokens()
    generator = torch.Generator().manual_seed(seed)
    prompt = read_prompt(model, tokens)
    kept = []
    for _ in range(3):
        low, high = (0, T + 1) if ragged else (7, 8)
        lengths = torch.randint(low, high, (2, 2), generator=generator)
        kept.append(select_rows(torch.rand(2, 2, T, generator=generator), lengths))
    truth = MaskedCache([~k.mask(T) for k in kept])
    with torch.no_grad():
        model.run(model.embed(tokens), truth)
        prompt.cache.compact([(k.index, k.lengths) for k in kept])
        late = torch.randint(0, 40, (2, 3), generator=generator)
        ours = [model.prefill(late, prompt.cache)]
        theirs = [model.logits(model.run(model.embed(late), truth)[:, -1])]
        for _ in range(4):
            token = ours[-1].argmax(dim=-1)
            ours.append(model.step(token, prompt.cache))
            theirs.append(model.logits(model.run(model.embed(token[:, None]), truth)[:, -1]))
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_chunks_and_single_steps_give_the_logits_of_one_prefill(chunks: list[int]) -> None:
    model, tokens = tiny(), prompt_tokens(sum(chunks))
    cache = model.init_cache(2)
    with torch.no_grad():
        whole = model.prefill(tokens, model.init_cache(2))
        for part in torch.split(tokens, chunks, dim=1):
            last = (
                model.step(part[:, 0], cache) if part.shape[1] == 1 else model.prefill(part, cache)
            )
    torch.testing.assert_close(last, whole, rtol=1e-4, atol=1e-4)
    assert cache.position == sum(chunks)


def test_a_chunked_prompt_is_watched_and_kept_like_a_whole_one() -> None:
    model, tokens = tiny(), prompt_tokens()
    whole, parts = read_prompt(model, tokens, 9), read_prompt(model, tokens, 9, chunk=4)
    for layer in range(3):
        torch.testing.assert_close(whole.cache.queries(layer), parts.cache.queries(layer))
        for a, b in zip(whole.cache.dense(layer), parts.cache.dense(layer), strict=True):
            torch.testing.assert_close(a, b)


def test_the_tiny_decoder_keeps_the_decode_contract() -> None:
    assert isinstance(tiny(), DecodeProgram)


def test_positions_count_tokens_seen_and_not_rows_kept() -> None:
    model = tiny()
    prompt = read_prompt(model, prompt_tokens())
    s = torch.rand(2, 2, T)
    kept = select_rows(s, torch.full((2, 2), 4))
    prompt.cache.compact([(kept.index, kept.lengths)] * 3)
    assert prompt.cache.position == T
    model.step(torch.zeros(2, dtype=torch.int64), prompt.cache)
    assert prompt.cache.position == T + 1


def test_stored_bytes_are_exactly_the_kept_rows_and_their_positions() -> None:
    prompt = read_prompt(tiny(), prompt_tokens())
    kept = select_rows(torch.rand(2, 2, T), torch.tensor([[1, 5], [9, 0]]))
    prompt.cache.compact([(kept.index, kept.lengths)] * 3)
    per_row = 2 * 8 * 4 + 4
    assert prompt.cache.nbytes == 3 * (15 * per_row + 4 * 8)


def test_a_fork_goes_its_own_way_and_shares_what_was_there() -> None:
    model = tiny()
    prompt = read_prompt(model, prompt_tokens())
    other = prompt.cache.fork()
    kept = select_rows(torch.rand(2, 2, T), torch.full((2, 2), 4))
    other.compact([(kept.index, kept.lengths)] * 3)
    model.step(torch.zeros(2, dtype=torch.int64), other)
    assert prompt.cache.position == T
    assert prompt.cache.dense(0)[0].shape[2] == T


def test_a_probe_leaves_the_cache_and_the_following_logits_untouched() -> None:
    model = tiny()
    prompt, untouched = read_prompt(model, prompt_tokens()), read_prompt(model, prompt_tokens())
    model.run(model.embed(prompt_tokens(5)), Probe(prompt.cache))
    token = torch.zeros(2, dtype=torch.int64)
    assert torch.equal(model.step(token, prompt.cache), model.step(token, untouched.cache))


def test_a_probe_after_a_decode_step_sees_the_decoded_token() -> None:
    model = tiny()
    cache, tokens = model.init_cache(2), prompt_tokens()
    with torch.no_grad():
        model.prefill(tokens[:, :-4], cache)
        model.step(tokens[:, -4], cache)
        probed = model.run(model.embed(tokens[:, -3:]), Probe(cache))
        whole = model.run(model.embed(tokens), model.init_cache(2))
    torch.testing.assert_close(probed, whole[:, -3:], rtol=1e-4, atol=1e-4)


def test_eviction_twice_and_a_dense_view_afterwards_are_refused() -> None:
    prompt = read_prompt(tiny(), prompt_tokens())
    kept = select_rows(torch.rand(2, 2, T), torch.full((2, 2), 4))
    prompt.cache.compact([(kept.index, kept.lengths)] * 3)
    with pytest.raises(ValueError, match="compacted"):
        prompt.cache.compact([(kept.index, kept.lengths)] * 3)
    with pytest.raises(ValueError, match="nothing yet"):
        KVCache(1).kept(0)


def test_repeating_heads_changes_no_output_of_ragged_attention() -> None:
    k, v = torch.randn(1, 2, T, 8), torch.randn(1, 2, T, 8)
    kept = select_rows(torch.rand(1, 2, T), torch.tensor([[3, 11]]))
    tail_k, tail_v = torch.randn(1, 2, 2, 8), torch.randn(1, 2, 2, 8)
    q = torch.randn(1, 6, 1, 8)
    grouped = compact_attention(q, gather_rows(k, v, kept.index, kept.lengths), tail_k, tail_v)
    k, v, tail_k, tail_v = (x.repeat_interleave(3, dim=1) for x in (k, v, tail_k, tail_v))
    index = torch.cat([kept.index[:3]] * 3 + [kept.index[3:]] * 3)
    lengths = kept.lengths.repeat_interleave(3, dim=1)
    each = compact_attention(q, gather_rows(k, v, index, lengths), tail_k, tail_v)
    torch.testing.assert_close(grouped, each)


def test_a_dense_cache_of_zero_tail_is_plain_attention() -> None:
    q, k, v = torch.randn(2, 4, 1, 8), torch.randn(2, 2, T, 8), torch.randn(2, 2, T, 8)
    ours = compact_attention(
        q, KVCompact.dense(k[:, :, :-1], v[:, :, :-1]), k[:, :, -1:], v[:, :, -1:]
    )
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(ours, plain)


RESIDENT = """
import sys, torch
from nightlab.kernels.kv import KVCache
from nightlab.kernels.kv.selection import select_rows
def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096
share, T, layers = float(sys.argv[1]), 16384, 4
def fill(T):
    cache = KVCache(layers)
    for layer in range(layers):
        cache.adopt(layer, torch.ones(1, 4, T, 64), torch.ones(1, 4, T, 64))
    return cache
def evict(cache, T, share):
    s = torch.rand(1, 4, T)
    ragged = torch.tensor([[0.5, 1.5, 1.0, 1.0]]) if share < 1 else torch.ones(1, 4)
    kept = select_rows(s, (ragged * share * T).long())
    cache.compact([(kept.index, kept.lengths)] * layers)
evict(fill(64), 64, 0.5)
before = resident()
cache = fill(T)
evict(cache, T, share)
print(resident() - before, cache.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_seen_from_outside_falls_with_the_budget() -> None:
    grown = {}
    for share in (1.0, 0.5, 0.125):
        done = subprocess.run(
            [sys.executable, "-c", RESIDENT, str(share)],
            capture_output=True,
            text=True,
            check=True,
            env={"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        )
        grown[share] = int(done.stdout.split()[0])
    for share in (0.5, 0.125):
        assert grown[share] / grown[1.0] == pytest.approx(share, rel=0.1)
