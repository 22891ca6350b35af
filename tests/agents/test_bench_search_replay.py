"""The replay of recorded trials: fitted, named as such, and refused where there is too little."""

import json
from pathlib import Path

import numpy as np
import pytest

from nightlab.agents.bench_search.protocol import REPLAY, REPLAY_FILE, Settings, tables_of
from nightlab.agents.bench_search.replay import fitted
from nightlab.errors import MissingError, UsageError


def trials(folder: Path, count: int) -> Path:
    """Trials of a space in which two parts matter and one never varies."""
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(count):
        norm, lr = int(rng.integers(3)), int(rng.integers(4))
        reward = [0.0, 1.0, 0.2][norm] + [0.0, 0.3, 0.6, 0.1][lr] + 0.02 * rng.standard_normal()
        genes = {"norm": f"n{norm}", "lr": f"l{lr}", "seed": "same"}
        lines.append(json.dumps({"genes": genes, "reward": reward}))
    path = folder / REPLAY_FILE
    path.write_text("\n".join(lines))
    return path


def test_a_replay_recovers_the_best_program_of_what_was_recorded(tmp_path: Path) -> None:
    table = fitted(trials(tmp_path, 60))
    assert [part.name for part in table.parts] == ["lr", "norm"]
    best = np.unravel_index(table.values.argmax(), table.shape)
    assert [part.variants[int(i)] for part, i in zip(table.parts, best, strict=True)] == [
        "l2",
        "n1",
    ]
    assert table.seeds is not None
    assert np.allclose(table.seeds.mean(axis=-1), table.values)


def test_a_replay_is_a_table_like_the_others(tmp_path: Path) -> None:
    trials(tmp_path, 40)
    (table,) = tables_of(Settings(tables=tmp_path, names=(REPLAY,), mode="noisy"))
    assert table.name == REPLAY


def test_too_few_trials_or_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="recorded trials"):
        fitted(tmp_path / REPLAY_FILE)
    with pytest.raises(UsageError, match="needs 20"):
        fitted(trials(tmp_path, 5))
