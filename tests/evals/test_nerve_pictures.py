"""``nightlab spectra``: documents and pictures of runs and of models at rest."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nightlab.errors import MissingError, UsageError
from nightlab.evals.nerve import hugging_face
from nightlab.evals.nerve.hugging_face import Probing
from nightlab.evals.nerve.probe import Report, probe
from nightlab.evals.nerve.readings import Reading, parse
from nightlab.evals.nerve.spectra import (
    Subject,
    answer,
    at_rest,
    of_folder,
    series_table,
    stored,
    table,
)

PROBING = Probing(batches=2, rows=4, length=32, tokens=64)


class Stack(nn.Module):
    """A residual stack of feed-forwards, GPT-2-style or LLaMA-style."""

    def __init__(self, gated: bool, layers: int = 3, hidden: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(32, 16)
        wide = 2 * hidden if gated else hidden
        self.ups = nn.ModuleList(nn.Linear(16, wide) for _ in range(layers))
        self.downs = nn.ModuleList(nn.Linear(hidden, 16) for _ in range(layers))
        self.gated = gated

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embed(tokens)
        for up, down in zip(self.ups, self.downs, strict=True):
            h = up(x)
            if self.gated:
                gate, value = h.chunk(2, -1)
                x = x + down(functional.silu(gate) * value)
            else:
                x = x + down(functional.gelu(h))
        return x


def report(gated: bool = False, **dials: Any) -> Report:
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randint(32, (8, 16), generator=generator) for _ in range(3)]
    return probe(Stack(gated, **dials), batches, tokens=64)


def run(rise: float, d: int = 64) -> list[Reading]:
    """Readings of three layers at four steps, with PR rising along the run."""
    rows: list[dict[str, object]] = []
    for step in (25, 50, 75, 100):
        for layer in range(3):
            shared = {"step": step, "layer": layer, "n": 128, "d": d, "entropy": 2.0}
            pr = 3 + rise * step * (layer + 1) / 30
            rows.append({**shared, "place": "pre", "pr": pr, "pr_corrected": pr, "eee": 0.8})
            after = {"pr": 1.5 * pr, "pr_corrected": 1.5 * pr, "pr_gain_corrected": 1.5}
            js = 0.01 * (layer + 1)
            rows.append({**shared, "place": "post", "eee": 0.7, "js": js, **after})
    return list(parse(rows))


def assert_is_a_picture(path: Path) -> None:
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 900
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 200


def test_one_run_is_drawn_layer_by_step(tmp_path: Path) -> None:
    document = stored({"exp-1": run(1.0)}, tmp_path / "deep" / "one.png")
    assert_is_a_picture(Path(document["picture"]))
    assert document["models"]["exp-1"]["steps"] == [25, 50, 75, 100]
    json.dumps(document, allow_nan=False)


def test_two_runs_are_compared_and_two_sizes_are_refused(tmp_path: Path) -> None:
    document = stored({"base": run(1.0), "new": run(1.3)}, tmp_path / "two.png")
    assert_is_a_picture(Path(document["picture"]))
    with pytest.raises(UsageError, match="different size"):
        stored({"base": run(1.0), "wide": run(1.0, d=128)}, tmp_path / "no.png")
    with pytest.raises(UsageError, match="heat maps"):
        stored({"empty": []}, tmp_path / "no.png")


@pytest.mark.parametrize("gated", [False, True])
def test_a_model_at_rest_has_a_table_a_document_and_a_portrait(gated: bool, tmp_path: Path) -> None:
    found = report(gated)
    document = at_rest({"tiny": found}, tmp_path / "tiny.png", {"tiny": "random tokens"})
    assert_is_a_picture(tmp_path / "tiny.png")
    json.dumps(document, allow_nan=False)
    kinds = [each["kind"] for each in document["models"]["tiny"]["found"]]  # type: ignore[attr-defined]
    assert kinds == ["gated" if gated else "plain"] * 3
    lines = table(found).splitlines()
    assert len(lines) == 4
    assert all("±" in line for line in lines[1:])


def test_two_models_at_rest_are_compared_only_where_sizes_match(tmp_path: Path) -> None:
    document = at_rest({"plain": report(), "gated": report(True)}, tmp_path / "two.png")
    assert_is_a_picture(tmp_path / "two.png")
    numbers = {row["number"] for row in document["difference"]}
    assert {"pr_corrected", "js", "eee"} <= numbers
    other = at_rest({"plain": report(), "wide": report(hidden=48)}, tmp_path / "wide.png")
    hidden = [row for row in other["difference"] if row["place"] in ("pre", "post")]
    assert {row.get("why_not") for row in hidden} == {"different (N, D)"}
    same = at_rest({"a": report(), "b": report()}, tmp_path / "same.png")
    assert not any(row["clear"] or row["difference"] for row in same["difference"])


def test_the_narrow_table_fits_eighty_columns() -> None:
    assert max(map(len, table(report(), wide=False).splitlines())) <= 80
    assert max(map(len, series_table(run(1.0)).splitlines())) <= 80


def test_a_series_is_told_by_its_first_middle_and_last_steps() -> None:
    lines = series_table(run(1.0)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["25"] * 3 + ["50"] * 3 + ["75"] * 3 + [
        "100"
    ] * 3


def test_a_series_is_not_compared_with_a_model_at_rest(tmp_path: Path) -> None:
    series = Subject("run", "", series=tuple(run(1.0)))
    still = Subject("still", "", report())
    with pytest.raises(UsageError, match="at rest"):
        answer([series, still], tmp_path / "no.png")


def test_what_is_no_model_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model here"):
        of_folder(tmp_path, "x", [], PROBING)
    with pytest.raises(UsageError, match="one model"):
        answer([], tmp_path / "x.png")


def test_without_transformers_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingError, match=r"nightlab\[huggingface\]"):
        of_folder(tmp_path, "x", [], PROBING)


def llama(library: Any) -> Any:
    return library.LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip


def gpt2(library: Any) -> Any:
    return library.GPT2Config(vocab_size=256, n_embd=32, n_layer=3, n_head=4, n_positions=64)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("config", "kind"), [(llama, "gated"), (gpt2, "plain")])
def test_hugging_face_folders_are_probed_and_drawn(
    config: Callable[[Any], Any], kind: str, tmp_path: Path
) -> None:
    library = pytest.importorskip("transformers", reason="pip install 'nightlab[huggingface]'")
    torch.manual_seed(0)
    model = library.AutoModelForCausalLM.from_config(config(library))
    for folder in (
        tmp_path / "model",
        tmp_path / "run/checkpoint-10",
        tmp_path / "run/checkpoint-20",
    ):
        model.save_pretrained(folder)
    text = tmp_path / "text.txt"
    text.write_text("def probe(model): return model\n" * 40)
    found = of_folder(tmp_path / "model", "model", [text], PROBING)
    document = answer([found], tmp_path / "model.png")
    assert_is_a_picture(tmp_path / "model.png")
    described = document["models"]["model"]
    assert [each["kind"] for each in described["found"]] == [kind] * 3  # type: ignore[attr-defined]
    assert "bytes of text.txt" in str(described["probed_with"])
    _, words = hugging_face.report(tmp_path / "model", [], PROBING)
    assert "random tokens" in words
    series = answer([of_folder(tmp_path / "run", "run", [text], PROBING)], tmp_path / "run.png")
    assert series["models"]["run"]["steps"] == [10, 20]
