"""``nightlab data add | list | prepare``: the text that tasks train on."""

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightlab.errors import UsageError
from nightlab.reading import AsJson, print_json, terminal

if TYPE_CHECKING:
    from nightlab.evals.own_corpus import OwnCorpus
    from nightlab.evals.shards import Shards

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


@app.command()
def prepare(
    task: Annotated[str, typer.Argument(metavar="TASK", help="gpt, or a folder with such a task.")],
    more: Annotated[list[Path] | None, typer.Argument(metavar="[FILES...]", hidden=True)] = None,
    files: Annotated[
        list[Path] | None, typer.Option("--files", help="Text files, or folders of them.")
    ] = None,
    hf: Annotated[
        str, typer.Option("--hf", help="A Hugging Face data set: NAME or NAME:CONFIGURATION.")
    ] = "",
    corpus: Annotated[str, typer.Option(help="A corpus of `nightlab data list`.")] = "",
    name: Annotated[str, typer.Option(help="What the new corpus is to be called.")] = "",
    column: Annotated[str, typer.Option(help="With --hf: the column of text.")] = "",
    megabytes: Annotated[int, typer.Option(min=1, help="With --hf: read at most so much.")] = 100,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of other text of that name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the token shards of a task over byte-pair tokens: of files, a data set, a corpus, or
    (with none of them) of the task's own text."""
    from nightlab.evals import hugging_face_text, own_corpus
    from nightlab.settings import Settings

    home = Settings.load().folder
    paths = [*(files or []), *(more or [])]
    if sum(map(bool, (paths, hf, corpus))) > 1:
        raise UsageError("give one of --files, --hf and --corpus")
    chosen = corpus or None
    if paths:
        chosen = own_corpus.add(name or "files", paths, home, instead=replace).name
    elif hf:
        documents = hugging_face_text.documents(hf, megabytes * 10**6, column, _say)
        called = name or re.sub(r"[^a-z0-9_-]+", "-", hf.lower()).strip("-")
        chosen = own_corpus.add_texts(called, documents, home, instead=replace).name
    shards = _shards(task, chosen, home)
    if as_json:
        print_json({"corpus": chosen, "task": task, "shards": shards.document()})
        return
    _show_shards(shards)
    wanted = f" --data {chosen}" if chosen else ""
    _say(f'use it: nightlab run "lower val_bpb in 30 minutes" --task {task}{wanted}')


def _shards(name: str, corpus: str | None, home: Path) -> "Shards":
    from nightlab.evals import corpus as texts
    from nightlab.evals import own_corpus, shards
    from nightlab.evals.task import load

    task = load(name)
    if task.scorer != "token_bits":
        raise UsageError(f"task {name} has no token shards: it reads its text as it is")
    on = own_corpus.on(task, corpus)
    return shards.prepare(texts.prepare(on, home), task.vocabulary, home, _say)[1]


def _show_shards(shards: "Shards") -> None:
    from rich.table import Table

    print(f"{shards.origin} ({shards.digest})")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("split")
    for column in ("bytes", "tokens", "bytes a token"):
        table.add_column(column, justify="right")
    for split, count in shards.bytes.items():
        tokens = shards.tokens[split]
        table.add_row(split, f"{count:,}", f"{tokens:,}", f"{count / tokens:.2f}")
    terminal().print(table)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


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
