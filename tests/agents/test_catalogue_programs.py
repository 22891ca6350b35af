"""Every program that the catalogue can write builds, stays causal and trains."""

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_model

from nightlab.agents.catalogue import Operator, current, operator, operators, tree_hash
from nightlab.evals.tasks.byte_lm import program as baseline_module
from nightlab.sandbox.guest.train import TrainJob, smoke, train
from nightlab.sandbox.guest.windows import Source
from nightlab.vocabulary import Program

BASELINE = Program({"program.py": Path(baseline_module.__file__).read_text()})
VARIANTS = [o for o in operators() if o.source and o.applicable(BASELINE)]
SMALLEST = "depth=1 width=32 heads=1 hidden_ratio=1.0 context=32 batch=4 clip=0.0 warmup=0.0"
NARROW = "depth=2 width=96 heads=16 hidden_ratio=3.0 context=64 batch=4 weight_decay=0.0 warmup=0.2"
QUICK = "context=32 batch=4"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    data = tmp_path / "data"
    np.random.default_rng(0).integers(0, 256, 4096).astype(np.uint8).tofile(data)
    return TrainJob(
        seed=0, budget_seconds=1e-9, sources=[Source(data)], out=tmp_path, max_context=512
    )


def with_dials(program: Program, dials: str) -> Program:
    for part, value in (setting.split("=") for setting in dials.split()):
        program = operator(part, value).apply(program)
    return program


@cache
def baseline(dials: str) -> Program:
    return with_dials(BASELINE, dials)


def run(program: Program) -> ModuleType:
    module = ModuleType("candidate")
    exec(compile(program.files["program.py"], "program.py", "exec"), module.__dict__)
    return module


def check(program: Program, job: TrainJob) -> None:
    """Smoke, then train a step through the frozen trainer, and read the saved weights back."""
    module = run(program)
    smoke(module, job)
    points: list[dict[str, Any]] = []
    train(module, job, points.append)
    recipe = module.Recipe()
    model = module.Model(recipe)
    load_model(model, str(job.out / "weights.safetensors"))
    model.eval()
    tokens = torch.randint(0, 256, (2, recipe.context))
    with torch.no_grad():
        whole = model(tokens)
        assert whole.shape == (2, recipe.context, 256)
        assert torch.isfinite(whole).all()
        for length in (1, recipe.context // 2 + 1):
            torch.testing.assert_close(
                model(tokens[:, :length]), whole[:, :length], atol=2e-4, rtol=1e-3
            )
    rates = [module.schedule(step / 1000, recipe) for step in range(1001)]
    assert all(0.0 <= rate <= 1.0 for rate in rates)
    assert max(rates) > 0.9


def edited(program: Program, edits: Sequence[Operator]) -> Program:
    for each in edits:
        program = each.apply(program)
    return program


def draw(rng: random.Random, count: int) -> list[Operator]:
    """Applicable operators of different parts, one after the other."""
    program, drawn = baseline(QUICK), list[Operator]()
    closed = {"context", "batch"}
    while len(drawn) < count:
        each = rng.choice(operators())
        if each.part not in closed and each.applicable(program):
            program = each.apply(program)
            closed.add(each.part)
            drawn.append(each)
    return drawn


def test_there_are_at_least_45_variants_of_at_least_10_parts() -> None:
    assert len(VARIANTS) >= 45
    assert len({each.part for each in VARIANTS}) >= 10


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: each.name)
def test_every_variant_trains_alone(variant: Operator, job: TrainJob) -> None:
    check(variant.apply(baseline(QUICK)), job)


@pytest.mark.slow
@pytest.mark.parametrize("dials", [SMALLEST, NARROW], ids=["smallest", "narrow"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: each.name)
def test_every_variant_trains_at_the_ends_of_the_ladders(
    variant: Operator, dials: str, job: TrainJob
) -> None:
    check(variant.apply(baseline(dials)), job)


@pytest.mark.parametrize("seed", range(200))
def test_random_pairs_compose_in_either_order(seed: int, job: TrainJob) -> None:
    first, second = draw(random.Random(seed), 2)
    quick = baseline(QUICK)
    program = edited(quick, [first, second])
    check(program, job)
    assert current(program)[first.part] == first.variant
    assert current(program)[second.part] == second.variant
    if second.applicable(quick) and first.applicable(second.apply(quick)):
        assert tree_hash(edited(quick, [second, first])) == tree_hash(program)


@pytest.mark.parametrize("seed", range(50))
def test_random_programs_of_six_edits_compose(seed: int, job: TrainJob) -> None:
    edits = draw(random.Random(1000 + seed), 6)
    program = edited(baseline(QUICK), edits)
    check(program, job)
    parts = current(program)
    assert all(parts[each.part] == each.variant for each in edits)


def test_every_optimizer_learns_a_file_of_one_byte(tmp_path: Path) -> None:
    data = tmp_path / "data"
    np.zeros(1024, np.uint8).tofile(data)
    job = TrainJob(
        seed=0, budget_seconds=0.3, sources=[Source(data)], out=tmp_path, max_context=512
    )
    for each in (o for o in VARIANTS if o.part == "optimizer"):
        points: list[dict[str, Any]] = []
        small = with_dials(each.apply(BASELINE), "depth=1 context=32 batch=4")
        train(run(small), job, points.append)
        assert points[-1]["loss"] < 0.5 < points[0]["loss"], each.name
