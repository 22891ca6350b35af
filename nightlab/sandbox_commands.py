"""``nightlab sandbox build | selftest``: the trainer image, and what each tier really stops."""

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightlab.errors import NightlabError

if TYPE_CHECKING:
    from nightlab.sandbox.selftest import Ask, Verdict

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def build(
    base: Annotated[
        str, typer.Option(help="Base image with Python; default: a public Python of our version.")
    ] = "",
    base_archive: Annotated[
        Path | None, typer.Option(help="Root file system (tar) to import as the base image.")
    ] = None,
    wheelhouse: Annotated[
        Path | None, typer.Option(help="Folder of wheels; default: download them with pip.")
    ] = None,
    cuda: Annotated[bool, typer.Option("--cuda", help="The variant that runs on a GPU.")] = False,
) -> None:
    """Build the trainer image from one Dockerfile; nothing is fetched while it is built."""
    from nightlab.sandbox import image
    from nightlab.sandbox.docker import Engine

    engine = Engine()
    name = base or image.default_base(cuda)
    if base_archive is not None:
        engine.import_base(base_archive, name)
    with tempfile.TemporaryDirectory(prefix="nightlab-wheels-") as temporary:
        if wheelhouse is None:
            wheelhouse = Path(temporary)
            _say("downloading wheels")
            image.fetch_wheels(wheelhouse)
        built = engine.build(image.Recipe(name, wheelhouse, cuda), _say)
    print(built)


@app.command(hidden=True)
def wheels(folder: Path) -> None:
    """Download the wheels of an image into a folder."""
    from nightlab.sandbox import image

    image.fetch_wheels(folder)


@app.command()
def selftest(
    tier: Annotated[str, typer.Option(help="One tier; default: every tier that is ready.")] = "",
    case: Annotated[str, typer.Option(help="Only cases whose name contains this.")] = "",
    full: Annotated[bool, typer.Option("--full", help="Also the crowd of 40 and 10.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Run hostile programs through the real tiers and compare how each ends; exits 1 on a miss."""
    from nightlab.sandbox import crowd
    from nightlab.sandbox import selftest as suite

    tables = []
    for name in suite.tiers(tier):
        tables.append(suite.run(name, judge, case, hear=_say))
        if full:
            tables.append(crowd.run(name, judge, hear=_say))
    if as_json:
        documents = [table.document() for table in tables]
        print(json.dumps(documents[0] if tier and not full else documents, indent=2))
    else:
        suite.show(tables)
    if not all(table.holds for table in tables):
        raise typer.Exit(1)


def judge(context: int, reader: "Ask", checker: "Ask") -> "Verdict":
    """The trusted scorer over a small text, as the self-test's judge."""
    import numpy as np

    from nightlab.evals.bits_per_byte import score
    from nightlab.evals.oracles import Answering, Oracles
    from nightlab.sandbox.abuse.case import HONEST
    from nightlab.sandbox.selftest import Verdict

    text = np.frombuffer((HONEST * 3).encode(), np.uint8)
    reading, checking = Answering(reader, context), Answering(checker, context)
    oracles = Oracles(reader=reading, checker=checking)
    measured = score(text, oracles, 2 * context, np.random.default_rng(0))
    bits = measured.metrics.get("val_bpb")
    return Verdict(bits, "; ".join(measured.reasons) or f"{bits:.3f} bits per byte")


def _say(line: str) -> None:
    if line.strip():
        print(line, file=sys.stderr)


if __name__ == "__main__":
    try:
        app()
    except NightlabError as error:
        print(f"nightlab: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
