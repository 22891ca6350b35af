"""``nightlab spectra``: the eigenspectra of a model's feed-forwards, as a table and a picture."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightlab.errors import UsageError
from nightlab.reading import WIDE, AsJson, print_json, reading, terminal
from nightlab.running import Tier

if TYPE_CHECKING:
    from nightlab.agents.subject import Inside
    from nightlab.evals.nerve.spectra import Document, Subject

app = typer.Typer()
ID = re.compile(r"c\d+-\d+(/.+)?$")


@app.command()
def spectra(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A Hugging Face folder, a .safetensors file, or an id (c1-7)."
        ),
    ],
    other: Annotated[
        str, typer.Argument(metavar="[OTHER]", help="A second one, to compare.", show_default=False)
    ] = "",
    data: Annotated[
        list[Path] | None, typer.Option(help="Text to probe with; may be given again.")
    ] = None,
    program: Annotated[
        Path | None, typer.Option(help="Program of a .safetensors file; program.py beside it.")
    ] = None,
    sandbox: Tier = "auto",
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Run a foreign program without isolation.")
    ] = False,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("spectra.png"),
    tokens: Annotated[int, typer.Option(min=8, help="Tokens of one spectrum, N.")] = 512,
    length: Annotated[int, typer.Option(min=4, help="Tokens of one sequence.")] = 128,
    as_json: AsJson = False,
) -> None:
    """Show how a model's feed-forwards spread their activations, layer by layer."""
    from nightlab.agents.subject import Inside
    from nightlab.evals.nerve.hugging_face import Probing
    from nightlab.evals.nerve.spectra import answer
    from nightlab.memory.report.documents import jsonable

    names = [model, *([other] if other else [])]
    if len(set(names)) < len(names):
        raise UsageError(f"{model} cannot be compared with itself: name another model")
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the picture is a PNG, so its name ends in .png")
    probing = Probing(length=length, tokens=tokens)
    inside = Inside(sandbox, unsafe, data or [], probing)
    subjects = [_subject(name, program, inside) for name in names]
    document = answer(subjects, out)
    if as_json:
        print_json(jsonable(dict(document)))
    else:
        print(_text(subjects, document))


def _subject(name: str, program: Path | None, inside: "Inside") -> "Subject":
    from nightlab.agents import subject
    from nightlab.evals.nerve.spectra import of_folder

    path = Path(name)
    if path.is_dir():
        return of_folder(path, path.resolve().name, inside.data, inside.probing)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UsageError(f"{name}: only .safetensors files hold weights that are safe to read")
        beside = program or path.parent / "program.py"
        if not beside.exists():
            raise UsageError(f"{beside}: no such program; name it with --program FILE")
        return subject.of_checkpoint(path, beside, inside)
    if not ID.match(name):
        raise UsageError(f"{name}: no such folder or file, and no id of an experiment (c1-7)")
    with reading() as (ledger, _):
        return subject.of_trial(ledger, name, inside)


def _text(subjects: "list[Subject]", document: "Document") -> str:
    """The tables of an answer, its comparison and where the picture is."""
    from nightlab.evals.nerve.spectra import difference_table, series_table, table

    parts = []
    for subject in subjects:
        wide = terminal().width >= WIDE
        shown = table(subject.report, wide=wide) if subject.report else series_table(subject.series)
        parts.append(f"{subject.name}: {subject.about}\n{shown}")
    if document.get("difference"):
        parts.append(difference_table(document))
    parts.append("\n".join(document["notes"]))
    return "\n\n".join(parts) + f"\n\npicture  {document['picture']}"
