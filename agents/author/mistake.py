"""What can be wrong with a reply: the typed error that goes back to the model."""

from enum import StrEnum


class Mistake(StrEnum):
    """The class of a fault in a proposal."""

    NO_EDIT = "no edit"
    CUT_OFF = "cut off"
    FOREIGN_FILE = "foreign file"
    NOT_FOUND = "text not found"
    AMBIGUOUS = "ambiguous"
    NOTHING = "changes nothing"
    REFUSED = "refused"
    VETTED = "vetted out"
    """It parses as an edit, but the program is refused: syntax, imports, a duplicate."""
    SMOKE = "smoke test"
    """It does not build, step or stay causal in the sandbox."""


class MisreadError(Exception):
    """A reply that makes no proposal: the model's fault, answered with a repair round."""

    def __init__(self, mistake: Mistake, message: str) -> None:
        super().__init__(f"{mistake}: {message}")
        self.mistake = mistake
