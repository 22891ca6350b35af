"""``nightlab data add | list``: the text that tasks train on."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightlab.reading import AsJson, print_json, terminal

if TYPE_CHECKING:
    from nightlab.evals.own_corpus import OwnCorpus

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the corpus is to be called.")]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILES...", help="Text files, or folders of them.")
]


@app.command()
def add(
    name: Name,
    files: Files,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of other text of that name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a corpus of text files; then: nightlab run "..." --data NAME."""
    from nightlab.evals import own_corpus
    from nightlab.settings import Settings

    made = own_corpus.add(name, files, Settings.load().folder, instead=replace)
    if as_json:
        print_json({"corpus": asdict(made)})
        return
    counts = {"duplicates": made.duplicates, "empty": made.empty, "not text": made.other}
    dropped = ", ".join(f"{count} {why}" for why, count in counts.items() if count)
    print(
        f"corpus {made.name} ({made.digest}): {made.files} files, split {made.split}"
        + (f"; dropped: {dropped}" if dropped else "")
    )
    print(
        f"bytes: {made.train_bytes:,} train, {made.search_bytes:,} search, "
        f"{made.holdout_bytes:,} hold-out"
    )
    print(f'use it: nightlab run "lower val_bpb in 5 minutes" --data {made.name}', file=sys.stderr)


@app.command("list")
def list_corpora(as_json: AsJson = False) -> None:
    """List the corpora that were added."""
    from nightlab.evals import own_corpus
    from nightlab.settings import Settings

    corpora = own_corpus.known(Settings.load().folder)
    if as_json:
        print_json({"corpora": [asdict(corpus) for corpus in corpora]})
    elif corpora:
        _show(corpora)
    else:
        print("There is no corpus yet. Make one: nightlab data add NAME FILES...")


def _show(corpora: "list[OwnCorpus]") -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("corpus", "version", "files", "split"):
        table.add_column(column)
    for column in ("train", "search", "hold-out"):
        table.add_column(column, justify="right")
    for one in corpora:
        sizes = (f"{n:,}" for n in (one.train_bytes, one.search_bytes, one.holdout_bytes))
        table.add_row(one.name, one.digest, str(one.files), one.split, *sizes)
    terminal().print(table)
