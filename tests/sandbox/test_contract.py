"""What every tier, and every future provider, must do."""

import secrets
import threading
import time
from collections.abc import Mapping

import numpy as np

from nightlab.sandbox.abuse.case import HONEST
from nightlab.sandbox.guest.wire import Message
from nightlab.sandbox.protocol import AbortError, Cell
from nightlab.sandbox.selftest import EXPECTED_FILES, HONEST_LIMITS, Bench, leftovers
from nightlab.vocabulary import Ending, Limits

PLENTY = HONEST_LIMITS
PRELUDE = "import os, time\nfrom honest import *\n"


def job(bench: Bench, cell: Cell, text: str = "from honest import *", **changes: object) -> Message:
    message = bench.job(cell, {"honest.py": HONEST, "program.py": text})
    return Message({**message.header, **changes})


def opened(bench: Bench) -> Cell:
    return bench.sandbox.open(bench.room())


def test_an_honest_program_trains_and_its_outputs_are_collected(bench: Bench) -> None:
    cell = opened(bench)
    points: list[Mapping[str, object]] = []
    answer = cell.ask(job(bench, cell), PLENTY, points.append)
    run = cell.close(EXPECTED_FILES)
    assert answer is not None
    assert answer.header == {"ok": True}
    assert run.ending is Ending.FINISHED
    assert run.tier is bench.sandbox.tier
    assert run.outputs is not None
    assert {path.name for path in run.outputs.iterdir()} == set(EXPECTED_FILES)
    assert points
    assert 0.1 < run.cpu_seconds < 10
    assert run.wall_seconds > 0.1
    assert run.peak_memory_bytes > 10 << 20


def test_an_oracle_answers_logits_and_a_second_close_returns_the_same_run(bench: Bench) -> None:
    cell = bench.sandbox.open(bench.room(outputs=False))
    files = {"program.py": HONEST}
    weights = bench.weights
    first = cell.ask(Message({"do": "open", "files": files, "device": "cpu"}, [weights]), PLENTY)
    tokens = np.zeros((4, 32), np.uint8)
    answer = cell.ask(Message({"do": "logits"}, [tokens]), PLENTY, answer_bytes=4 * 32 * 256 * 4)
    run = cell.close()
    assert first is not None
    assert first.header["context"] == 32
    assert answer is not None
    assert answer.arrays[0].shape == (4, 32, 256)
    assert run.ending is Ending.FINISHED
    assert run.outputs is None
    assert cell.close(EXPECTED_FILES) is run


def test_an_answer_larger_than_agreed_is_not_read(bench: Bench) -> None:
    cell = bench.sandbox.open(bench.room(outputs=False))
    files = {"program.py": HONEST}
    cell.ask(Message({"do": "open", "files": files, "device": "cpu"}, [bench.weights]), PLENTY)
    tokens = np.zeros((4, 32), np.uint8)
    assert cell.ask(Message({"do": "logits"}, [tokens]), PLENTY, answer_bytes=1000) is None
    assert cell.close().ending is Ending.BAD_OUTPUT


def test_an_error_of_the_program_is_a_crash_with_its_words(bench: Bench) -> None:
    cell = opened(bench)
    answer = cell.ask(job(bench, cell, "raise ValueError('my own fault')"), PLENTY)
    run = cell.close(EXPECTED_FILES)
    assert answer is not None
    assert "my own fault" in str(answer.header["error"])
    assert (run.ending, run.outputs) == (Ending.CRASHED, None)
    assert "my own fault" in run.reason
    assert "my own fault" in run.log


def test_a_dead_cell_answers_nothing_more(bench: Bench) -> None:
    cell = opened(bench)
    assert cell.alive()
    assert cell.ask(job(bench, cell, "import os; os._exit(3)"), PLENTY) is None
    assert not cell.alive()
    assert cell.ask(job(bench, cell), PLENTY) is None
    assert cell.close(EXPECTED_FILES).ending is Ending.CRASHED


def test_a_cell_closed_before_it_was_asked_has_no_output(bench: Bench) -> None:
    run = opened(bench).close(EXPECTED_FILES)
    assert run.ending is Ending.NO_OUTPUT
    assert run.cpu_seconds == 0


def test_a_listener_that_has_heard_enough_ends_the_run_early(bench: Bench) -> None:
    cell = opened(bench)

    def hear(_: Mapping[str, object]) -> None:
        raise AbortError("it cannot win")

    assert cell.ask(job(bench, cell, budget_seconds=60.0), PLENTY, hear) is None
    run = cell.close(EXPECTED_FILES)
    assert (run.ending, run.reason) == (Ending.ABORTED, "it cannot win")


def test_the_cpu_limit_counts_from_the_message_and_not_the_warm_up(bench: Bench) -> None:
    cell = opened(bench)
    assert (
        cell.ask(job(bench, cell, budget_seconds=60.0), Limits(cpu_seconds=1.0, wall_seconds=60))
        is None
    )
    run = cell.close(EXPECTED_FILES)
    assert run.ending is Ending.TIMEOUT
    assert "CPU" in run.reason
    assert 1.0 < run.cpu_seconds < 2.0


def test_a_deadline_kills_every_descendant(bench: Bench) -> None:
    mark = f"nl-{secrets.token_hex(5)}"
    text = (
        PRELUDE
        + f"""
import ctypes
ctypes.CDLL(None).prctl(15, b"{mark}", 0, 0, 0)
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
time.sleep(600)
"""
    )
    cell = opened(bench)
    started = time.monotonic()
    assert cell.ask(job(bench, cell, text), Limits(cpu_seconds=60, wall_seconds=1.0)) is None
    run = cell.close(EXPECTED_FILES)
    assert run.ending is Ending.TIMEOUT
    assert "wall clock" in run.reason
    assert time.monotonic() - started < 10
    assert leftovers(mark) == ""


def test_the_limits_of_a_message_hold_below_those_of_the_room(bench: Bench) -> None:
    cell = opened(bench)
    text = PRELUDE + "hoard = [bytes([1]) * (8 << 20) for _ in range(90)]\ntime.sleep(60)"
    limits = Limits(cpu_seconds=30, wall_seconds=40, memory_bytes=600 << 20)
    assert cell.ask(job(bench, cell, text), limits) is None
    assert cell.close(EXPECTED_FILES).ending is Ending.OUT_OF_MEMORY


def test_the_same_seed_gives_the_same_first_loss_and_another_gives_another(bench: Bench) -> None:
    def first_loss(seed: int) -> object:
        cell = opened(bench)
        points: list[Mapping[str, object]] = []
        cell.ask(job(bench, cell, seed=seed), PLENTY, points.append)
        cell.close(EXPECTED_FILES)
        return points[0]["loss"]

    assert first_loss(1) == first_loss(1) != first_loss(2)


def test_cells_side_by_side_do_not_see_each_others_outputs(bench: Bench) -> None:
    runs = []

    def train(seed: int) -> None:
        cell = opened(bench)
        cell.ask(job(bench, cell, seed=seed), PLENTY)
        runs.append(cell.close(EXPECTED_FILES))

    threads = [threading.Thread(target=train, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run.ending for run in runs] == [Ending.FINISHED] * 2
    folders = [run.outputs for run in runs if run.outputs is not None]
    contents = {(folder / "weights.safetensors").read_bytes() for folder in folders}
    assert len(contents) == 2


def test_a_cell_without_data_has_none(bench: Bench) -> None:
    cell = bench.sandbox.open(bench.room(outputs=False))
    assert cell.data == ""
    cell.close()
