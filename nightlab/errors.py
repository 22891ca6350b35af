"""What can go wrong on our side, one class per boundary.

    NightlabError            exit 1   the campaign failed
    ├── UsageError           exit 2   the person's input cannot be used
    ├── MissingError         exit 3   the environment lacks something
    ├── SandboxError         exit 1   a sandbox could not be started or lost contact
    ├── LedgerError          exit 1   the ledger cannot be read or written
    └── ModelError           exit 1   the language model cannot be reached or afforded

A foreign program's failure is never an exception: it is a :class:`nightlab.vocabulary.Run`.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class NightlabError(Exception):
    """What was wrong, where, and what to do about it, in one or two sentences."""

    exit_code = 1


class UsageError(NightlabError):
    """The person's input cannot be used as it is."""

    exit_code = 2


class MissingError(NightlabError):
    """The environment lacks something; the message says how to get it."""

    exit_code = 3


class SandboxError(NightlabError):
    """A sandbox failed us: an environment fault, never the program's failure."""


class LedgerError(NightlabError):
    """The ledger cannot be read or written."""


class ModelError(NightlabError):
    """The language model cannot be reached, understood or afforded."""


@contextmanager
def boundary(error: type[NightlabError], doing: str) -> Iterator[None]:
    """Attribute whatever escapes the block to one boundary; our own errors pass unchanged."""
    try:
        yield
    except NightlabError:
        raise
    except Exception as cause:
        raise error(f"{doing}: {type(cause).__name__}: {cause}") from cause
