"""What the frozen trainer makes of the sources that the evaluator names."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from nightlab.sandbox.guest.train import Batches, loss_of
from nightlab.sandbox.guest.windows import PROBE_ROWS, Source, fitting, probed


def test_a_stream_gives_windows_of_the_context_with_the_next_token_as_target(
    tmp_path: Path,
) -> None:
    np.arange(200, dtype=np.uint8).tofile(tmp_path / "train.bin")
    inputs_BT, targets_BT, counts = Batches(Source(tmp_path / "train.bin"), 16, 8, 0, "cpu").next()
    assert inputs_BT.shape == (8, 16)
    assert counts is None
    assert torch.equal(targets_BT, inputs_BT + 1)


def test_rows_are_used_whole_and_only_the_masked_targets_count(tmp_path: Path) -> None:
    rows = np.stack([np.arange(8) + 10 * row for row in range(5)]).astype(np.uint16)
    mask = np.zeros((5, 8), np.uint8)
    mask[:, [0, 3, 7]] = 1
    rows.tofile(tmp_path / "rows.u16")
    mask.tofile(tmp_path / "rows.mask")
    source = Source(tmp_path / "rows.u16", tmp_path / "rows.mask", 8)
    inputs_BT, targets_BT, counts_BT = Batches(source, 512, 32, 0, "cpu").next()
    assert counts_BT is not None
    assert set(inputs_BT[:, 0].tolist()) == {0, 10, 20, 30, 40}
    assert (targets_BT[:, -1] - inputs_BT[:, 0] == 7).all()
    assert (counts_BT == torch.tensor([0.0, 0, 1, 0, 0, 0, 1])).all()


def test_targets_that_do_not_count_leave_the_loss_alone() -> None:
    model = nn.Embedding(4, 4)
    inputs_BT = torch.tensor([[0, 1, 2]])
    counts_BT = torch.tensor([[1.0, 0.0, 1.0]])
    losses = [
        loss_of(model, inputs_BT, torch.tensor([[1, other, 3]]), counts_BT) for other in range(4)
    ]
    assert len({loss.item() for loss in losses}) == 1
    assert losses[0] == loss_of(model, inputs_BT[:, ::2], torch.tensor([[1, 3]]))


def test_the_longest_rows_that_fit_the_context_are_trained_on() -> None:
    sources = [Source(Path(str(row)), None, row) for row in (64, 256, 1024)]
    chosen = [fitting(sources, context).row for context in (8, 64, 255, 256, 4096)]
    assert chosen == [64, 64, 64, 256, 1024]


def test_the_examples_of_the_last_report_follow_from_the_seed_alone(tmp_path: Path) -> None:
    np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tofile(tmp_path / "train.bin")
    sources = [Source(tmp_path / "train.bin")]
    first, again, other = (probed(sources, 16, seed) for seed in (5, 5, 6))
    assert first.shape == (PROBE_ROWS, 16)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    trained_on = Batches(sources[0], 16, PROBE_ROWS, 5, "cpu").next()[0]
    assert not np.array_equal(first, trained_on.numpy())
