"""The catalogue on the recall program: what it can edit trains, and decodes where it says so."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nightlab.agents.catalogue import Operator, current, operator, operators
from nightlab.evals import recall_data, task
from nightlab.sandbox.guest.train import TrainJob, smoke, train
from nightlab.sandbox.guest.windows import Source
from nightlab.vocabulary import Program

BASELINE = task.load("recall").baseline
VARIANTS = [o for o in operators() if o.source and o.applicable(BASELINE)]
EVICTIONS = [o for o in VARIANTS if o.part == "eviction"]
LEARNED = ("lookahead", "lookahead_heads")
CACHED = {
    "baseline": BASELINE,
    **{
        name: operator("attention", name).apply(BASELINE)
        for name in ("cached_groups", "cached_one")
    },
}


def module_of(program: Program) -> ModuleType:
    module = ModuleType("candidate")
    exec(compile(program.files["program.py"], "program.py", "exec"), module.__dict__)
    return module


def tokens(rows: int, length: int) -> torch.Tensor:
    drawn = np.random.default_rng(0).integers(0, recall_data.VOCABULARY, (rows, length))
    return torch.from_numpy(drawn)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: each.name)
def test_every_variant_trains_on_rows(variant: Operator, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    rows, answers = recall_data.rows(recall_data.shape_of(64), 64, np.random.default_rng(0))
    rows.tofile(tmp_path / "64.bin")
    answers.tofile(tmp_path / "64.mask")
    sources = [Source(tmp_path / "64.bin", tmp_path / "64.mask", 64)]
    job = TrainJob(seed=0, budget_seconds=1e-9, sources=sources, out=tmp_path, max_context=8448)
    program = variant.apply(BASELINE)
    module = module_of(program)
    smoke(module, job)
    train(module, job, list[object]().append)
    assert current(program)[variant.part] == variant.variant


def refusal(program: Program, folder: Path) -> str:
    """What the smoke test says where the shortest scored context is longer than a training row;
    nothing where it lets the program through."""
    job = TrainJob(
        seed=0, budget_seconds=0.0, sources=[], out=folder, max_context=8448, shortest=512
    )
    try:
        smoke(module_of(program), job)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("variant", ["rotary", "learned"])
def test_what_cannot_read_a_scored_context_is_refused_before_it_trains(
    variant: str, tmp_path: Path
) -> None:
    said = refusal(operator("position", variant).apply(BASELINE), tmp_path)
    assert "cannot read 512 tokens, the shortest context that is scored" in said


def test_what_reads_them_with_a_cache_or_without_is_let_through(tmp_path: Path) -> None:
    programs = (*CACHED.values(), operator("attention", "latent").apply(BASELINE))
    assert [refusal(program, tmp_path) for program in programs] == [""] * 4


@pytest.mark.parametrize("program", CACHED.values(), ids=CACHED)
def test_the_decode_path_gives_the_logits_of_whole_rows_however_it_is_cut(program: Program) -> None:
    module = module_of(program)
    model = module.Model(module.Recipe()).eval()
    assert model.decodes
    rows_BT = tokens(3, 40)
    with torch.no_grad():
        whole = model(rows_BT)
        cache = model.init_cache(3)
        got = [model.prefill(rows_BT[:, :25], cache), model.prefill(rows_BT[:, 25:30], cache)]
        got += [model.step(rows_BT[:, at], cache) for at in range(30, 40)]
    wanted = [whole[:, at] for at in (24, 29, *range(30, 40))]
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("start", "heads"), list(zip(CACHED, (4, 2, 1), strict=True)))
@pytest.mark.parametrize("variant", EVICTIONS, ids=lambda each: each.name)
def test_an_eviction_keeps_its_share_of_the_rows_and_still_answers(
    variant: Operator, start: str, heads: int
) -> None:
    program = operator("keep", "0.125").apply(variant.apply(CACHED[start]))
    module = module_of(program)
    model = module.Model(module.Recipe()).eval()
    assert model.approximate
    held = []
    for context in (256, 512):
        cache = model.init_cache(2)
        with torch.no_grad():
            model.prefill(tokens(2, context), cache)
            logits = model.step(tokens(2, 1)[:, 0], cache)
        assert torch.isfinite(logits).all()
        assert cache.position == context + 1
        held.append(sum(cache.kept(layer).nbytes for layer in range(2)))
    full = 2 * 2 * 2 * 16 * heads * 4
    assert (held[1] - held[0]) / 256 == pytest.approx(full / 8, rel=0.15)


def rows_of(count: int) -> torch.Tensor:
    drawn, _ = recall_data.rows(recall_data.shape_of(64), count, np.random.default_rng(1))
    return torch.from_numpy(drawn.astype(np.int64))[:, :-1]


def learned(variant: str) -> Any:
    """A model in training whose eviction learns at every step, its low-rank maps awake."""
    torch.manual_seed(0)
    module = module_of(operator("eviction", variant).apply(BASELINE))
    model = module.Model(module.Recipe())
    model.eviction.every = 1
    for name, p in model.eviction.named_parameters():
        if name.endswith("B"):
            torch.nn.init.normal_(p, std=0.1)
    return model


@pytest.mark.parametrize("variant", LEARNED)
def test_what_an_eviction_learns_moves_its_own_weights_alone(variant: str) -> None:
    model = learned(variant)
    model(rows_of(8))
    model.auxiliary_loss().backward()
    own = {id(p) for p in model.eviction.parameters()}
    for name, p in model.named_parameters():
        if id(p) in own:
            assert p.grad is not None, name
            assert bool((p.grad != 0).any()), name
        else:
            assert p.grad is None, name
            assert p.requires_grad, name


def test_a_step_with_a_lookahead_changes_the_rest_as_a_step_without() -> None:
    """The one thing they share is the limit on the gradient's norm, which its loss hardly fills."""
    models = [learned("lookahead"), learned("lookahead")]
    models[1].eviction.every = 2
    for model in models:
        loss = model(rows_of(8)).logsumexp(-1).square().mean()
        (loss + model.auxiliary_loss()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for (name, one), other in zip(
        models[0].named_parameters(), models[1].parameters(), strict=True
    ):
        if not name.startswith("eviction"):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_a_lookahead_comes_nearer_to_what_questions_attend_to() -> None:
    model = learned("lookahead")
    model.eviction.weight = 1.0
    optimizer = torch.optim.AdamW(model.eviction.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for _ in range(40):
        model(rows_of(16))
        loss = model.auxiliary_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_lookahead_does_not_learn_in_a_program_that_cannot_decode() -> None:
    module = module_of(
        operator("eviction", "lookahead").apply(
            operator("attention", "sparse_shared").apply(BASELINE)
        )
    )
    model = module.Model(module.Recipe())
    model.eviction.every = 1
    model(rows_of(2))
    assert model.auxiliary_loss() == 0.0


def trained(program: Program, folder: Path, seconds: float) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    rows, answers = recall_data.rows(recall_data.shape_of(64), 20_000, np.random.default_rng(0))
    rows.tofile(folder / "64.bin")
    answers.tofile(folder / "64.mask")
    sources = [Source(folder / "64.bin", folder / "64.mask", 64)]
    job = TrainJob(seed=0, budget_seconds=seconds, sources=sources, out=folder, max_context=8448)
    train(module_of(program), job, list[object]().append)
    return load_file(folder / "weights.safetensors")


def recalled(program: Program, weights: dict[str, torch.Tensor]) -> float:
    """Share of answers in 32 rows of context 512, on the decode path."""
    shape = recall_data.Shape(512, 8)
    rows, answers = recall_data.rows(shape, 32, np.random.default_rng(1))
    rows_BT = torch.from_numpy(rows.astype(np.int64))
    module = module_of(operator("keep", "0.0625").apply(program))
    model = module.Model(module.Recipe()).eval()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    cache = model.init_cache(32)
    with torch.no_grad():
        model.prefill(rows_BT[:, :512], cache)
        said = [model.step(rows_BT[:, at], cache) for at in range(512, rows_BT.shape[1] - 1)]
    right = torch.stack(said, 1).argmax(-1) == rows_BT[:, 513:]
    return float(right[torch.from_numpy(answers[:, 513:] == 1)].float().mean())


@pytest.mark.slow
def test_after_a_trial_a_lookahead_keeps_what_a_suffix_window_loses(tmp_path: Path) -> None:
    """One training, two evictions of a sixteenth: all else is the same."""
    lookahead = operator("eviction", "lookahead").apply(BASELINE)
    weights = trained(lookahead, tmp_path, 15.0)
    suffix = operator("eviction", "suffix").apply(BASELINE)
    assert recalled(lookahead, weights) > recalled(suffix, weights) + 0.1


def test_a_draft_sees_the_key_before_it_and_leaves_the_cache_as_it_was() -> None:
    """A fork carries the last key, which the next one is mixed with, and keeps its own."""
    module = module_of(BASELINE)
    model = module.Model(module.Recipe()).eval()
    rows_BT = tokens(2, 30)
    with torch.no_grad():
        cache = model.init_cache(2)
        model.prefill(rows_BT, cache)
        drafted = model.step(rows_BT[:, 0], cache.fork())
        assert torch.equal(model.step(rows_BT[:, 0], cache), drafted)


@pytest.mark.parametrize(
    "edit", ["attention:sparse_shared", "scores:sink", "position:alibi", "embedding:bigram_hash"]
)
def test_a_part_that_knows_no_cache_ends_the_decode_contract(edit: str) -> None:
    part, variant = edit.split(":")
    known = [o for o in VARIANTS if o.part == part]
    chosen = next((o for o in known if o.variant == variant), known[0])
    module = module_of(chosen.apply(BASELINE))
    assert not module.Model(module.Recipe()).decodes
