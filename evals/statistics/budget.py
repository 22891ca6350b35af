"""How many false keeps a whole campaign may expect, spread over confirmations of unknown number."""

from dataclasses import dataclass

from scipy.special import zeta

from nightlab.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class FalseKeepBudget:
    """Alpha spending over the confirmations of a campaign.

    The j-th confirmation is tested at ``alpha(j) = total * j**-exponent / zeta(exponent)``. The
    levels sum to ``total`` however long the campaign runs, so by linearity of expectation (no
    independence needed) the expected number of false keeps is at most ``total``. Only
    confirmations spend; screens are free.

    Spending over a stream of unknown length: alpha-spending of Foster and Stine, "Alpha-investing",
    JRSS B 70 (2008). The exponent 1.6 is the default sequence of SAFFRON (Ramdas et al., arXiv
    1802.09098) and of the package onlineFDR: it leaves late confirmations more than j**-2 does.
    """

    total: float = 0.25
    """Bound on the expected number of false keeps of the campaign."""
    exponent: float = 1.6
    """Above 1; larger spends earlier."""

    def __post_init__(self) -> None:
        if not (self.total > 0 and self.exponent > 1):
            raise UsageError("a false-keep budget needs total > 0 and exponent > 1")

    def alpha(self, j: int) -> float:
        """Level of the ``j``-th confirmation of the campaign, counted from 1."""
        if j < 1:
            raise UsageError(f"confirmations are counted from 1, not {j}")
        return float(self.total * j**-self.exponent / zeta(self.exponent))

    def spent(self, confirmations: int) -> float:
        """What the first ``confirmations`` levels sum to."""
        return sum(self.alpha(j) for j in range(1, confirmations + 1))
