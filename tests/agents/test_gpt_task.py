"""The task over byte-pair tokens: its parts are the catalogue's, its bits those of raw bytes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers")

from nightlab.agents import catalogue
from nightlab.agents.trial import Bench
from nightlab.evals import own_corpus, shards
from nightlab.evals.oracles import Array, Oracles
from nightlab.evals.scorer import make
from nightlab.evals.task import SHIPPED, Task, load, load_on
from nightlab.sandbox.guest.train import TrainJob, smoke
from nightlab.sandbox.guest.windows import Source
from nightlab.sandbox.process import ProcessSandbox
from nightlab.vocabulary import Integrity, Program, Rung, Split

VOCABULARY = 300
ON_GPU, ON_CPU = load_on("gpt", "GPU-1"), load_on("gpt", None)
PARTS = [o for o in catalogue.operators() if o.source and o.applicable(ON_CPU.baseline)]
TINY = "depth=1 width=32 heads=2 context=32 batch=8"


def tiny() -> Program:
    """The baseline on the smallest shapes, over few tokens."""
    program = ON_CPU.baseline
    for part, value in (setting.split("=") for setting in TINY.split()):
        edit = catalogue.operator(part, value)
        program = edit.apply(program) if edit.applicable(program) else program
    text = program.files["program.py"]
    assert "VOCABULARY = 4096" in text
    return Program({"program.py": text.replace("VOCABULARY = 4096", f"VOCABULARY = {VOCABULARY}")})


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """The task over few tokens of an own corpus."""
    texts = [f"line {i} of {n} says {i * n}\n".encode() * 40 for i in range(30) for n in range(8)]
    own_corpus.add_texts("lines", texts, tmp_path)
    small = replace(ON_CPU, vocabulary=VOCABULARY, baseline=tiny())
    return own_corpus.on(small, "lines")


def test_its_program_has_byte_lms_parts_on_a_gpu_and_without_one() -> None:
    plain = catalogue.current(load("byte_lm").baseline)
    parts = {part.name for part in catalogue.parts() if not part.ordered} & plain.keys()
    assert len(parts) > 10
    for program in (ON_GPU.baseline, ON_CPU.baseline):
        held = catalogue.current(program)
        assert {part: held[part] for part in parts} == {part: plain[part] for part in parts}


def test_every_edit_of_a_part_of_byte_lm_applies_to_it() -> None:
    plain = load("byte_lm").baseline
    wanted = {o.name for o in catalogue.operators() if o.source and o.applicable(plain)}
    for program in (ON_GPU.baseline, ON_CPU.baseline):
        assert {
            o.name for o in catalogue.operators() if o.source and o.applicable(program)
        } == wanted


def test_its_dials_can_be_turned_on_a_gpu_where_a_step_is_larger_than_byte_lms() -> None:
    turned = {o.part for o in catalogue.neighbours(ON_GPU.baseline) if not o.source}
    assert {"depth", "width", "heads", "context", "batch", "learning_rate", "clip"} <= turned
    assert not any(o.variant == "64" for o in catalogue.neighbours(ON_GPU.baseline) if
                   o.part == "batch")  # fmt: skip


@pytest.mark.parametrize("edit", PARTS, ids=lambda edit: edit.name)
def test_every_edit_of_a_part_builds_steps_and_stays_causal_over_tokens(
    edit: catalogue.Operator, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    module = ModuleType("candidate")
    text = edit.apply(tiny()).files["program.py"]
    exec(compile(text, "program.py", "exec"), module.__dict__)
    job = TrainJob(
        seed=0, budget_seconds=0.0, sources=[Source(tmp_path)], out=tmp_path, max_context=512
    )
    smoke(module, job)


def test_where_there_is_no_gpu_it_is_made_small_and_says_so() -> None:
    assert "no GPU" in ON_CPU.note
    assert ON_CPU.gpu is None
    assert max(rung.cpu_seconds for rung in ON_CPU.rungs) <= 60
    assert (ON_GPU.note, ON_GPU.gpu) == ("", "GPU-1")
    assert [rung.cpu_seconds for rung in ON_GPU.rungs] == [60, 300]
    assert catalogue.dials(ON_GPU.baseline)["context"] == 1024
    assert "VOCABULARY = 4096" in ON_GPU.baseline.files["program.py"]
    assert ON_GPU.vocabulary == 4096


@dataclass(frozen=True)
class Guessing:
    """An oracle for which every token is as likely as any other."""

    vocabulary: int

    @property
    def facts(self) -> dict[str, object]:
        return {"context": 32}

    def ask(self, what: str, *arrays: Array, **options: object) -> Sequence[Array] | None:
        assert what == "logits"
        (tokens_BT,) = arrays
        return [np.zeros((*tokens_BT.shape, self.vocabulary), np.float32)]


@pytest.mark.parametrize("vocabulary", [270, 300])
def test_bits_are_counted_on_the_raw_bytes_whatever_the_vocabulary(
    vocabulary: int, task: Task, tmp_path: Path
) -> None:
    scorer = make(replace(task, vocabulary=vocabulary))
    splits = scorer.prepare(tmp_path)
    oracles = Oracles(reader=Guessing(vocabulary), checker=Guessing(vocabulary))
    measured = scorer.score(splits.search, oracles, np.random.default_rng(0))
    raw = own_corpus.find("lines", tmp_path).splits(tmp_path).search.read_bytes()
    tokens = len(shards.read(splits.search)) - 1
    assert measured.metrics["val_bpb"] == pytest.approx(
        math.log2(vocabulary) * tokens / len(raw), rel=1e-5
    )


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ProcessSandbox]:
    opened = ProcessSandbox()
    yield opened
    opened.close()


def test_it_trains_in_a_sandbox_on_tokens_and_is_scored_outside(
    task: Task, sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    splits = make(task).prepare(tmp_path)
    bench = Bench(task=task, splits=splits, sandbox=sandbox)
    run = bench.train(bench.open(), task.baseline, Rung("short", 1.0), seed=1)
    measured = bench.measure(task.baseline, run, Split.SEARCH, 1)
    assert measured is not None, run
    assert measured.integrity is Integrity.CLEAN, measured.reasons
    assert 0.1 < measured.metrics["val_bpb"] < 3.0
    assert sorted(path.name for path in splits.train.iterdir()) == ["train.u16"]


def test_the_shipped_program_and_task_agree_on_the_vocabulary() -> None:
    text = (SHIPPED / "gpt" / "program.py").read_text()
    assert f"VOCABULARY = {load('gpt').vocabulary}\n" in text
