"""The lookahead module touches nothing but itself, and learns what responses attend to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nightlab.kernels.kv import (
    Example,
    Lookahead,
    LookaheadScorer,
    LookaheadShape,
    Setup,
    TrainConfig,
    evict,
    policy,
    read_prompt,
    train_lookahead,
)
from nightlab.kernels.kv.decoder import TinyDecoder, TinyShape
from nightlab.kernels.kv.lookahead import adapted, masked_look
from nightlab.kernels.kv.train import divergence, frozen, lookahead_loss, respond, targets

SHAPE = LookaheadShape(tokens=5, rank=2, alpha=8.0)


def tiny() -> TinyDecoder:
    torch.manual_seed(0)
    return TinyDecoder(TinyShape(vocabulary=40, layers=3, head_dim=8, hidden=32)).eval()


def prompt_tokens(batch: int = 2) -> Tensor:
    return torch.randint(0, 40, (batch, 24), generator=torch.Generator().manual_seed(1))


def awake(model: TinyDecoder, shape: LookaheadShape = SHAPE) -> Lookahead:
    """A module whose LoRA is not zero."""
    module = Lookahead(model, shape)
    for name, p in module.named_parameters():
        if name.endswith("B"):
            torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(2))
    return module


def test_prompt_logits_and_cache_are_bit_identical_with_and_without_the_module() -> None:
    model = tiny()
    plain = read_prompt(model, prompt_tokens())
    module = awake(model)
    with_module = read_prompt(model, prompt_tokens())
    module.look(model, with_module.cache)
    assert torch.equal(plain.logits, with_module.logits)
    for layer in range(3):
        for a, b in zip(plain.cache.dense(layer), with_module.cache.dense(layer), strict=True):
            assert torch.equal(a, b)
    again = read_prompt(model, prompt_tokens())
    assert torch.equal(plain.logits, again.logits)


def test_decoding_after_eviction_uses_the_untouched_base_model() -> None:
    model = tiny()
    module = awake(model)
    state = evict(
        read_prompt(model, prompt_tokens()), policy("lookahead", Setup(module=module)), 24
    )
    token = state.logits.argmax(dim=-1)
    plain = read_prompt(model, prompt_tokens())
    torch.testing.assert_close(model.step(token, state.cache), model.step(token, plain.cache))


def test_one_masked_pass_equals_a_separate_pass() -> None:
    model = tiny()
    module = awake(model)
    separate = LookaheadScorer(module=module).score(read_prompt(model, prompt_tokens()))
    for a, b in zip(masked_look(module, model, prompt_tokens()), separate, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_masked_pass_leaves_prompt_keys_as_they_were() -> None:
    model = tiny()
    module = awake(model)
    cache, plain = model.init_cache(2), read_prompt(model, prompt_tokens())
    x = torch.cat([model.embed(prompt_tokens()), module.tokens.expand(2, -1, -1)], dim=1)
    with torch.no_grad(), module.attached(model, last=5):
        model.run(x, cache)
    torch.testing.assert_close(cache.dense(2)[0][:, :, :24], plain.cache.dense(2)[0])
    with torch.no_grad(), module.attached(model):
        model.run(x, changed := model.init_cache(2))
    assert not torch.allclose(changed.dense(2)[0][:, :, :24], plain.cache.dense(2)[0])


def test_an_error_in_the_pass_still_leaves_every_map_as_it_was() -> None:
    model = tiny()
    patched = model.blocks[0].get_submodule("q")
    patched.__dict__["forward"] = lambda x: x  # as libraries that wrap a model do
    with pytest.raises(RuntimeError, match="on purpose"), awake(model).attached(model):
        raise RuntimeError("on purpose")
    assert torch.equal(patched.forward(prompt_tokens()), prompt_tokens())
    for _, linear in adapted(model):
        assert linear is patched or "forward" not in linear.__dict__


def test_a_lora_of_zero_equals_tokens_alone() -> None:
    model = tiny()
    fresh = Lookahead(model, SHAPE)
    bare = Lookahead(model, LookaheadShape(tokens=5, rank=0))
    bare.tokens = fresh.tokens
    prompt = read_prompt(model, prompt_tokens())
    for a, b in zip(
        LookaheadScorer(module=fresh).score(prompt),
        LookaheadScorer(module=bare).score(prompt),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_the_last_layer_adapts_only_what_can_reach_a_score() -> None:
    names = [name for name, _ in adapted(tiny())]
    assert names == [
        f"{i}_{r}" for i in (0, 1) for r in ("q", "k", "v", "o", "gate", "up", "down")
    ] + [
        "2_q",
        "2_k",
    ]


def test_gradients_reach_every_part_of_the_module_and_nothing_of_the_model() -> None:
    model = tiny()
    module = awake(model)
    example = Example(prompt=prompt_tokens(), steps=4)
    prompt = read_prompt(model, example.prompt)
    wanted = targets(prompt, respond(model, prompt, example), TrainConfig())
    with frozen(model):
        lookahead_loss(module, prompt, wanted, TrainConfig()).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_the_loss_is_zero_only_for_the_target_itself() -> None:
    p = torch.rand(2, 3, 9)
    assert divergence(p, 7 * p).item() == pytest.approx(0.0, abs=1e-6)
    assert divergence(p, torch.rand(2, 3, 9)).item() > 0.01
    zeros = torch.zeros(1, 1, 4)
    zeros[..., 0] = 1.0
    assert torch.isfinite(divergence(zeros, zeros.flip(-1)))


def examples() -> Iterator[Example]:
    while True:
        yield Example(prompt=prompt_tokens(4), lead=prompt_tokens(4)[:, :2], steps=4)


@pytest.mark.parametrize("config", [
    TrainConfig(steps=40, every=10, warmup=5, lr=5e-3),
    TrainConfig(steps=40, every=10, warmup=5, lr=5e-3, per_query_head=True, target="value"),
])  # fmt: skip
def test_training_lowers_the_loss_and_leaves_the_model_alone(config: TrainConfig) -> None:
    model = tiny()
    before = [p.detach().clone() for p in model.parameters()]
    seen: list[int] = []
    reports = train_lookahead(
        model, Lookahead(model, SHAPE), examples(), config, progress=lambda p: seen.append(p.step)
    )
    assert seen == [10, 20, 30, 40]
    assert reports[-1].loss < 0.8 * reports[0].loss
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_checkpoint_gives_back_the_same_scores(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model = tiny()
    module = Lookahead(model, SHAPE)
    path = tmp_path / "module.safetensors"
    train_lookahead(model, module, examples(), TrainConfig(steps=4, every=2), checkpoint=path)
    loaded = Lookahead.load(path, model)
    assert loaded.shape == SHAPE
    prompt = read_prompt(model, prompt_tokens())
    for a, b in zip(
        LookaheadScorer(module=module).score(prompt),
        LookaheadScorer(module=loaded).score(prompt),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_a_module_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "module.safetensors"
    Lookahead(tiny(), SHAPE).save(path)
    with pytest.raises(RuntimeError):
        Lookahead.load(path, TinyDecoder(TinyShape(layers=2)))


def test_parameter_counts_are_those_of_the_formula_for_llama_8b_shapes() -> None:
    """20.55 M: seven maps in 31 layers, q and k in the last, 32 tokens of width 4096, rank 8."""
    dims = {"q": (4096, 4096), "k": (4096, 1024), "v": (4096, 1024), "o": (4096, 4096)}
    dims |= {"gate": (4096, 14336), "up": (4096, 14336), "down": (14336, 4096)}
    per_layer = {role: 8 * (i + o) for role, (i, o) in dims.items()}
    total = 31 * sum(per_layer.values()) + per_layer["q"] + per_layer["k"] + 32 * 4096
    assert total == pytest.approx(20.55e6, rel=1e-3)
    model = tiny()
    ours = Lookahead(model, SHAPE).parameter_count()
    maps = [linear for _, linear in adapted(model)]
    assert ours == 5 * 32 + sum(2 * (m.in_features + m.out_features) for m in maps)
