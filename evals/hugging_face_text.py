"""Text of Hugging Face data sets: the only module that knows ``datasets``."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nightlab.errors import MissingError, NightlabError, UsageError

COLUMN = "text"
REPORTED_BYTES = 10_000_000


def documents(
    name: str, most_bytes: int, column: str = "", say: Callable[[str], None] = lambda _: None
) -> Iterator[bytes]:
    """Documents of the train split of ``NAME`` or ``NAME:CONFIGURATION``, at most so many bytes.

    ``name`` may be a folder. ``column``: which one holds the text; ``text`` where nothing is said.
    Nothing that comes with a data set is run, and rows are streamed.

    Raises:
        MissingError: ``datasets`` is not installed, or the data set cannot be reached.
        UsageError: it has no such column, or no text in it.
    """
    read = reported = 0
    for row in _rows(name):
        text = row.get(column or COLUMN)
        if not isinstance(text, str):
            columns = ", ".join(str(key) for key in row)
            raise UsageError(
                f"data set {name} has no text in column {column or COLUMN}; it has: {columns}; "
                "choose one with --column"
            )
        content = text.encode(errors="ignore")
        read += len(content)
        yield content
        if read >= most_bytes:
            return
        if read - reported >= REPORTED_BYTES:
            reported = read
            say(f"read {read / 1e6:.0f} of at most {most_bytes / 1e6:.0f} MB")


def _rows(name: str) -> Iterator[Mapping[str, Any]]:
    try:
        library = importlib.import_module("datasets")
    except ImportError:
        raise MissingError(
            "--hf needs the Hugging Face data set library: pip install datasets; or give --files"
        ) from None
    path, _, configuration = name.partition(":")
    try:
        yield from library.load_dataset(path, configuration or None, split="train", streaming=True)
    except NightlabError:
        raise
    except Exception as error:
        line = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise MissingError(
            f"data set {name} cannot be read: {line[0][:300]}; check its name and the network"
        ) from None
