"""The benchmark's recall tasks are well formed, solvable, and read the way the claims need."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nightlab.evals.bench_kernels_kv import COST_TOKENS, Found, claims, plot, rows, run
from nightlab.evals.bench_kernels_kv_cost import Cost
from nightlab.evals.bench_kernels_kv_quality import (
    CASES,
    SHAPE,
    Answers,
    Scale,
    interval,
    paired,
    parts,
)
from nightlab.evals.bench_kernels_kv_tasks import (
    ASK,
    PAIRS,
    START,
    SYMBOLS,
    TAGS,
    Kind,
    lesson,
    make,
    wire_induction,
)
from nightlab.kernels.kv import POLICIES, LookaheadShape
from nightlab.kernels.kv.decoder import TinyDecoder

KINDS: tuple[Kind, ...] = ("multi_value", "multi_hop", "one_hop")


@given(st.sampled_from(KINDS), st.integers(2 * PAIRS + 2, 80), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_every_answer_can_be_read_off_its_context(kind: Kind, length: int, seed: int) -> None:
    recall = make(kind, 3, length, torch.Generator().manual_seed(seed))
    assert recall.context.shape == (3, length)
    for context, question, answer in zip(
        recall.context.tolist(), recall.question.tolist(), recall.answer.tolist(), strict=True
    ):
        follows = {(a, b) for a, b in pairwise(context) if not SYMBOLS <= a < TAGS}
        if kind == "multi_value":
            steps = list(zip(answer[::2], answer[1::2], strict=True))
        else:
            walk = [question[-1], *answer]
            steps = list(pairwise(walk))
        assert set(steps) <= follows


@given(st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_contexts_hold_eight_pairs_and_filler(seed: int) -> None:
    for kind in KINDS:
        context = make(kind, 2, 40, torch.Generator().manual_seed(seed)).context
        assert bool((context[:, 0] == START).all())
        filler = (context >= SYMBOLS) & (context < TAGS)
        assert filler.sum(dim=1).tolist() == [40 - 1 - 2 * PAIRS] * 2


def test_the_later_keys_of_a_chain_are_not_in_its_question() -> None:
    recall = make("multi_hop", 8, 40, torch.Generator().manual_seed(0))
    for question, answer in zip(recall.question.tolist(), recall.answer.tolist(), strict=True):
        assert not set(question) & set(answer)


def test_lessons_grade_only_tokens_that_can_be_known() -> None:
    tokens, targets = lesson(8, 40, torch.Generator().manual_seed(0))
    assert tokens.shape == targets.shape
    graded = targets != -100
    assert not bool(graded[:, :38].any())
    asked = tokens[:, 40:] == ASK
    assert bool(graded[:, 41:][asked[:, :-1]].all())


def test_a_wired_model_recalls_above_chance_before_any_training() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = TinyDecoder(SHAPE).eval()
    wire_induction(model, generator)
    recall = make("one_hop", 200, 40, generator)
    with torch.no_grad():
        logits = model.prefill(
            torch.cat([recall.context, recall.question], 1), model.init_cache(200)
        )
    right = (logits.argmax(dim=-1) == recall.answer[:, 0]).float().mean().item()
    assert right > 1.5 / PAIRS


def test_an_answer_token_that_prefill_already_gives_does_not_count() -> None:
    for case in CASES:
        recall = make(case.kind, 2, 40, torch.Generator().manual_seed(0))
        prompt, lead, scored = parts(case, recall)
        assert (lead is None) == (case.seen and not case.repeated)
        assert not (lead is None and bool(scored[0]))
        assert prompt.shape[1] == 40 + (recall.question.shape[1] if case.seen else 0)
        assert bool(scored.any())


def test_intervals_hold_the_mean_and_shrink_with_prompts() -> None:
    rng = np.random.default_rng(0)
    few, many = (rng.random((3, n)) for n in (20, 2000))
    for sample in (few, many):
        low, high = interval(sample)
        assert low < sample.mean() < high
    assert np.diff(interval(many)) < 0.3 * np.diff(interval(few))


def made_up(ours: float, rival: float) -> Found:
    """A finding with the given accuracies at 12.5 %, everything else alike."""
    rng = np.random.default_rng(0)
    answers = {}
    for case in CASES:
        for name in [*POLICIES, "oracle"]:
            p = ours if name == "lookahead" else rival
            right = (rng.random((3, 200)) < p).astype(np.float64)
            answers[case.name, name, 0.125] = Answers(right, 0.13, 0.5)
    costs = {
        t: {n: Cost(10.0, 1.0 if n == "lookahead" else 8.0, 9.0) for n in POLICIES}
        for t in COST_TOKENS
    }
    return Found(answers, costs, {0.5: 0.5, 0.125: 0.13}, identical=True)


def test_claims_hold_when_ours_is_clearly_better_and_fail_when_it_is_not() -> None:
    assert all(claim["holds"] for claim in claims(made_up(0.9, 0.4)))
    failed = [claim["name"] for claim in claims(made_up(0.4, 0.9)) if not claim["holds"]]
    assert any("above snapkv" in name for name in failed)
    assert any("LAQ" in name for name in failed)
    assert any("control" in name for name in failed)
    same = [c for c in claims(made_up(0.5, 0.5)) if "interval above" in c["name"]]
    assert not any(claim["holds"] for claim in same)


def test_a_paired_difference_has_the_sign_of_the_gap() -> None:
    found = made_up(0.9, 0.4)
    mean, low, high = paired(found.answers, CASES[0].name, "lookahead", "snapkv", 0.125)
    assert 0.3 < low < mean < high
    assert len(rows(found)) == len(found.answers) + len(COST_TOKENS) * len(POLICIES) + 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_benchmark_runs_end_to_end_at_a_small_scale(tmp_path: Path) -> None:
    scale = Scale(
        seeds=(0, 1),
        prompts=8,
        length=40,
        model_steps=3,
        module_steps=2,
        module=LookaheadShape(tokens=4, rank=2),
        repeats=2,
    )
    report = run(scale, folder=tmp_path)
    quality = [r for r in report["rows"] if r["table"] == "quality"]
    assert len(quality) == len(CASES) * (len(POLICIES) * 4 + 1)
    assert all(0.0 <= r["low"] <= r["value"] <= r["high"] <= 1.0 for r in quality)
    by_memory = [c for c in report["claims"] if "memory" in c["name"] or "bits" in c["name"]]
    assert all(claim["holds"] for claim in by_memory)
    plot(report, tmp_path / "kv.png")
    assert (tmp_path / "kv.png").read_bytes()[:4] == b"\x89PNG"
