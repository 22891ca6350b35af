"""The recorder finds feed-forwards however they are written, and disturbs nothing."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nightlab.kernels import spectra
from nightlab.kernels.spectra import Recorder
from nightlab.kernels.spectra.recorder import Pre


def load_programs() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "spectra_programs", Path(__file__).with_name("spectra_programs.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


programs = load_programs()
TinyLM, Plain = programs.TinyLM, programs.Plain

WAYS: dict[str, Callable[[], nn.Module]] = {
    "gelu": Plain,
    "relu": lambda: Plain(torch.relu),
    "relu written as where": lambda: Plain(lambda x: torch.where(x > 0, x, 0.0 * x)),
    "relu written as a mask": lambda: Plain(lambda x: x * (x > 0)),
    "relu in place": lambda: Plain(nn.ReLU(inplace=True)),
    "relu in place by method": lambda: Plain(lambda x: x.relu_()),
    "squared relu": lambda: Plain(lambda x: functional.relu(x).square()),
    "silu written out": lambda: Plain(lambda x: x / (1 + torch.exp(-x))),
    "normed hidden": lambda: Plain(lambda x: functional.gelu(functional.layer_norm(x, (40,)))),
    "hidden dropout": lambda: Plain(lambda x: functional.dropout(torch.relu(x), 0.5)),
    "llama": programs.Llama,
    "up first": programs.UpFirst,
    "fused gate and up": programs.Fused,
    "interleaved gate and up": programs.Interleaved,
    "glu": programs.Glu,
    "bare parameters": programs.Functional,
    "einsum": programs.Einsum,
    "conv1d of gpt2": programs.Conv1D,
    "custom autograd": programs.CustomGradient,
}


def batch(seed: int = 0, rows: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, programs.VOCABULARY, (rows, programs.TOKENS), generator=generator)


def built(ffn: Callable[[], nn.Module], **dials: object) -> Any:
    torch.manual_seed(0)
    return TinyLM(ffn, **dials)


def assert_records_tell_the_truth(model: Any, records: list[spectra.Record]) -> None:
    truth = model.truth()
    posts = [r for r in records if r["place"] == "post"]
    pres = [r for r in records if r["place"] == "pre"]
    assert len(posts) == len(pres) == len(truth)
    for (pre, post), before, after in zip(truth, pres, posts, strict=True):
        for tensor, record in ((pre, before), (post, after)):
            exact = spectra.spectrum(tensor.flatten(0, -2))
            assert (record["n"], record["d"]) == (exact.n, exact.d)
            assert record["pr"] == pytest.approx(
                spectra.participation_ratio(exact.values), rel=1e-4
            )
            assert record["entropy"] == pytest.approx(
                spectra.spectral_entropy(exact.values), rel=1e-4
            )
            assert record["pr_corrected"] == pytest.approx(
                exact.spread.corrected_participation_ratio(), rel=1e-3
            )
        js = spectra.divergence(
            spectra.spectrum(pre.flatten(0, -2)).values,
            spectra.spectrum(post.flatten(0, -2)).values,
        )
        assert after["js"] == pytest.approx(js, abs=1e-5)
        assert after["pr_gain"] == pytest.approx(float(str(after["pr"])) / float(str(before["pr"])))


@pytest.mark.parametrize("way", WAYS)
def test_a_feed_forward_is_found_however_it_is_written(way: str) -> None:
    model = built(WAYS[way])
    recorder = Recorder(model, tokens=None)
    with recorder.watching(step=7) as watch:
        model(batch())
    assert [f.layer for f in recorder.found] == [0, 1]
    assert [f.path for f in recorder.found] == ["blocks.0.ffn", "blocks.1.ffn"]
    assert {r["step"] for r in watch.records} == {7}
    assert_records_tell_the_truth(model, watch.records)


@pytest.mark.parametrize(
    "dials",
    [
        {"norm": programs.Norm},
        {"norm": programs.Squash},
        {"norm": nn.Identity},
        {"parallel": True},
        {"gated": True},
        {"gated": True, "parallel": True, "norm": programs.Squash},
        {"dropout": 0.1},
    ],
    ids=[
        "written-out norm",
        "tanh norm",
        "no norm",
        "parallel",
        "gated attention",
        "all",
        "dropout",
    ],
)
@pytest.mark.parametrize("ffn", [Plain, programs.Llama])
def test_norms_gates_and_parallel_blocks_are_not_taken_for_feed_forwards(
    ffn: Callable[[], nn.Module], dials: dict[str, object]
) -> None:
    model = built(ffn, **dials)
    recorder = Recorder(model, tokens=None, places=("pre", "post", "out", "residual"))
    with recorder.watching() as watch:
        model(batch())
    assert [f.path for f in recorder.found] == ["blocks.0.ffn", "blocks.1.ffn"]
    assert_records_tell_the_truth(model, watch.records)
    assert [r["layer"] for r in watch.records if r["place"] == "residual"] == [0, 1]


@pytest.mark.parametrize("ffn", [programs.Mixture, programs.BatchedMixture, programs.LoopedMixture])
def test_experts_of_a_mixture_share_a_layer_and_are_told_apart(
    ffn: Callable[[], nn.Module],
) -> None:
    model = built(ffn)
    recorder = Recorder(model, tokens=None, places=("pre", "post", "residual"))
    with recorder.watching() as watch:
        model(batch(rows=16))
    assert [(f.layer, f.expert) for f in recorder.found] == [
        (n, e) for n in (0, 1) for e in range(3)
    ]
    assert_records_tell_the_truth(model, watch.records)


def test_an_expert_with_too_few_tokens_is_flagged_and_has_no_numbers() -> None:
    model = built(programs.Mixture)
    with torch.no_grad():
        for block in model.blocks:
            block.ffn.router.bias += torch.tensor([30.0, 0.0, -30.0])
            block.ffn.router.weight.zero_()
    recorder = Recorder(model)
    with recorder.watching() as watch:
        model(batch())
    assert {r["expert"] for r in watch.records} == {None}
    assert {r["n"] for r in watch.records} == {96}
    with recorder.watching() as watch:
        model(batch(rows=1)[:, :3])
    assert {r["flag"] for r in watch.records} == {"fewer than 4 tokens"}


def test_shared_weights_are_one_layer_for_each_time_they_run() -> None:
    shared = Plain()
    model = built(lambda: shared)
    recorder = Recorder(model, tokens=None)
    for _ in range(2):
        with recorder.watching():
            model(batch())
    assert [f.path for f in recorder.found] == ["blocks.0.ffn", "blocks.0.ffn#1"]
    assert [f.layer for f in recorder.found] == [0, 1]


def test_a_model_without_feed_forwards_yields_nothing() -> None:
    model = built(nn.Identity)
    recorder = Recorder(model)
    with recorder.watching() as watch:
        model(batch())
    assert recorder.found == ()
    assert watch.records == []


def test_two_forward_passes_in_one_block_add_up() -> None:
    model = built(Plain)
    recorder = Recorder(model, tokens=None)
    with recorder.watching() as watch:
        model(batch(0))
        model(batch(1))
    assert {r["n"] for r in watch.records} == {2 * 4 * programs.TOKENS}
    assert len(recorder.found) == 2


def test_the_output_spectrum_is_that_of_post_through_the_down_matrix() -> None:
    model = built(Plain)
    recorder = Recorder(model, tokens=None, places=("post", "out"))
    with recorder.watching() as watch:
        model(batch())
    out = [r for r in watch.records if r["place"] == "out"]
    for block, record in zip(model.blocks, out, strict=True):
        ((_, post),) = block.ffn.truth
        weighted = spectra.spectrum(post.flatten(0, -2) @ block.ffn.proj.weight.T)
        assert record["d"] == programs.D
        assert record["pr"] == pytest.approx(spectra.participation_ratio(weighted.values), rel=1e-4)


@pytest.mark.parametrize("pre", get_args(Pre))
def test_what_counts_as_before_can_be_chosen_in_a_gated_feed_forward(pre: Pre) -> None:
    model = built(programs.Llama, layers=1)
    recorder = Recorder(model, tokens=None, pre=pre, places=("pre",))
    ffn = model.blocks[0].ffn
    seen: dict[str, Tensor] = {}
    ffn.gate_proj.register_forward_hook(lambda _m, _i, out: seen.update(gate=out))
    ffn.up_proj.register_forward_hook(lambda _m, _i, out: seen.update(up=out))
    with recorder.watching() as watch:
        model(batch())
    seen["gate*up"] = seen["gate"] * seen["up"]
    exact = spectra.spectrum(seen[pre].detach().flatten(0, -2))
    (record,) = watch.records
    assert record["pr"] == pytest.approx(spectra.participation_ratio(exact.values), rel=1e-4)


@pytest.mark.parametrize("ffn", [Plain, programs.Llama, programs.Mixture, WAYS["relu in place"]])
def test_outputs_gradients_and_random_state_are_unchanged(ffn: Callable[[], nn.Module]) -> None:
    results = []
    for watched in (False, True):
        model = built(ffn, dropout=0.2)
        torch.manual_seed(5)
        if watched:
            with Recorder(model).watching():
                logits = model(batch())
        else:
            logits = model(batch())
        logits.square().mean().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        results.append((logits.detach(), torch.get_rng_state(), grads))
    (plain, state, grads), (watched_, state_, grads_) = results
    assert torch.equal(plain, watched_)
    assert torch.equal(state, state_)
    assert len(grads) == len(grads_)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_, strict=True))


def break_down(_module: nn.Module, _inputs: object) -> None:
    raise RuntimeError("broken")


def test_nothing_stays_behind_when_the_program_fails() -> None:
    model = built(Plain)
    model.head.register_forward_pre_hook(break_down)
    with pytest.raises(RuntimeError, match="broken"), Recorder(model).watching():
        model(batch())
    assert not model._forward_pre_hooks
    assert not torch.overrides.has_torch_function((torch.ones(1),))


def test_the_same_tokens_are_drawn_before_and_after_and_again_for_the_same_seed() -> None:
    model = built(lambda: Plain(lambda x: 3.0 * torch.where(x > -1e9, x, x)))
    recorder = Recorder(model, tokens=16)
    runs = []
    for _ in range(2):
        with recorder.watching(step=50) as watch:
            model(batch())
        runs.append(watch.records)
    assert runs[0] == runs[1]
    posts = [r for r in runs[0] if r["place"] == "post"]
    assert {r["n"] for r in posts} == {16}
    for record in posts:
        assert record["js"] == pytest.approx(0, abs=1e-9)
        assert record["pr_gain_corrected"] == pytest.approx(1, rel=1e-4)


def test_records_are_json_even_where_activations_are_constant_or_not_finite() -> None:
    model = built(lambda: Plain(lambda x: 0.0 * torch.relu(x)), layers=1)
    recorder = Recorder(model)
    with recorder.watching() as watch:
        model(batch())
    constant = watch.records[1]
    assert constant["flag"] == "constant"
    assert constant["pr"] is None
    assert constant["js"] is None
    with torch.no_grad():
        model.blocks[0].ffn.fc.bias.fill_(float("nan"))
    with recorder.watching() as watch:
        model(batch())
    assert watch.records[0]["flag"] == "activations are not finite"
    assert json.loads(json.dumps(watch.records, allow_nan=False)) == watch.records


def test_the_cadence_counts_steps_and_bad_settings_are_refused() -> None:
    model = built(Plain)
    recorder = Recorder(model, every=50, share=None)
    assert [step for step in range(151) if recorder.due(step)] == [50, 100, 150]
    with pytest.raises(ValueError, match="4 tokens"):
        Recorder(model, tokens=3)
    with pytest.raises(ValueError, match="every"):
        Recorder(model, every=0)


def test_records_that_would_cost_more_than_their_share_are_skipped() -> None:
    model = built(Plain)
    thrifty, free = Recorder(model, share=0.0), Recorder(model, share=None)
    for recorder in (thrifty, free):
        with recorder.watching(step=50):
            model(batch())
    assert not thrifty.due(100)
    assert free.due(100)


def test_layers_of_torch_are_found_in_evaluation_mode_too() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 40, batch_first=True, activation="gelu")
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    recorder = Recorder(model)
    with recorder.watching(), torch.no_grad():
        model(torch.randn(4, 24, 16, generator=torch.Generator().manual_seed(0)))
    assert [f.width for f in recorder.found] == [40, 40]
