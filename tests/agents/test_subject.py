"""``nightlab spectra`` of a checkpoint with its program: computed in a sandbox, never believed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model

from nightlab.agents import subject
from nightlab.agents.subject import Inside
from nightlab.errors import UsageError
from nightlab.evals.nerve.hugging_face import Probing
from nightlab.evals.nerve.spectra import answer, table
from nightlab.evals.task import SHIPPED
from nightlab.evals.tasks.byte_lm import program

PROBING = Probing(batches=2, rows=4, length=32, tokens=64)
LIAR = """

from nightlab.sandbox.guest import oracle as _oracle
import numpy as _np
_oracle.probe = lambda *_: ({"records": RECORDS, "found": FOUND}, [_np.ones(3, _np.float32)])
"""


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    text = tmp_path / "text.py"
    text.write_text("def probe(model): return model\n" * 40)
    return Inside("process", True, [text], PROBING)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(program.Model(program.Recipe()), str(tmp_path / "a.safetensors"))
    (tmp_path / "program.py").write_text((SHIPPED / "byte_lm" / "program.py").read_text())
    return tmp_path / "a.safetensors"


def test_a_checkpoint_is_probed_inside_and_drawn(checkpoint: Path, inside: Inside) -> None:
    found = subject.of_checkpoint(checkpoint, checkpoint.parent / "program.py", inside)
    assert found.report is not None
    assert len(table(found.report).splitlines()) == 4
    assert all(values is not None for values in found.report.eigenvalues)
    document = answer([found], checkpoint.parent / "a.png")
    assert Path(document["picture"]).stat().st_size > 10_000


def test_a_foreign_program_needs_isolation_or_a_persons_word(
    checkpoint: Path, inside: Inside
) -> None:
    careful = Inside("process", False, inside.data, PROBING)
    with pytest.raises(UsageError, match="--unsafe"):
        subject.of_checkpoint(checkpoint, checkpoint.parent / "program.py", careful)


@pytest.mark.parametrize(
    ("records", "found", "says"),
    [
        ('"no list"', "[]", "list of records"),
        ('[{"step": 0, "layer": 0, "place": "pre", "pr": 1e9, "n": 64, "d": 9}]', "[]", "outside"),
        ("[]", "[]", "no feed-forward"),
        ("[]", '[{"kind": "fourth"}]', "known form"),
        ("[]", '[{"kind": "plain", "path": "", "gate": "", "up": None, "down": "", "width": 4, '
         '"layer": 0, "expert": None}]', "do not fit"),
    ],
)  # fmt: skip
def test_an_answer_of_no_known_form_is_refused_with_a_reason(
    checkpoint: Path, inside: Inside, records: str, found: str, says: str
) -> None:
    liar = checkpoint.parent / "liar.py"
    text = (checkpoint.parent / "program.py").read_text()
    liar.write_text(text + LIAR.replace("RECORDS", records).replace("FOUND", found))
    with pytest.raises(UsageError, match=says):
        subject.of_checkpoint(checkpoint, liar, inside)


def test_weights_of_another_program_are_refused_in_one_line(
    checkpoint: Path, inside: Inside
) -> None:
    wider = checkpoint.parent / "wider.py"
    text = (checkpoint.parent / "program.py").read_text()
    wider.write_text(text.replace("width: int = 64", "width: int = 32"))
    with pytest.raises(UsageError, match="cannot be probed") as refused:
        subject.of_checkpoint(checkpoint, wider, inside)
    assert "\n" not in str(refused.value)
