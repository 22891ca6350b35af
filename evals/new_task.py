"""A new task's folder: a small one that runs as it is, ready to be changed into a person's own."""

import os
import tempfile
from importlib.resources import files
from pathlib import Path

from nightlab.errors import UsageError, boundary
from nightlab.evals.own_corpus import NAME
from nightlab.evals.task import names

FILES = ("task.toml", "program.py", "train.py", "scorer.py")


def create(name: str, parent: Path) -> Path:
    """Write ``parent/name`` with a task that runs.

    Raises:
        UsageError: the name cannot be used or is taken, or the folder cannot be written.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a task: use a-z, 0-9, - and _, at most 64")
    if name in names():
        raise UsageError(f"{name} is the name of a task that ships: choose another")
    folder = parent / name
    if folder.exists():
        raise UsageError(f"{folder} is there already: choose another name or --folder")
    template = files("nightlab.evals.scaffold")
    with boundary(UsageError, f"writing {folder}"):
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=parent) as draft:
            made = Path(draft) / name
            made.mkdir()
            for file in FILES:
                text = template.joinpath(file).read_text("utf-8")
                (made / file).write_text(text.replace('name = "NAME"', f'name = "{name}"'))
            os.rename(made, folder)
    return folder
