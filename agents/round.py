"""The state of one experiment's graph: ids and small scalars only."""

from typing import TypedDict


class Round(TypedDict, total=False):
    """Where one experiment stands. Everything else is in the ledger."""

    experiment: str
    verdict: str
    """Empty until it is decided."""
    reason: str
    screens: int
    """Screening trials asked for."""
    against: str
    """Incumbent it is compared with."""
    confirmation: int
    """Which confirmation of the campaign this is; 0 until it is one."""
    pairs: int
    """Fresh pairs asked for."""
