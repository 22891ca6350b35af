"""What is noise and what is gain: noise floor, screening, the paired sequential test, its budget.

Everything here works on *gains*: differences of the primary metric in the objective's direction
(positive = better), challenger minus incumbent on the same seed and data order. Pure arithmetic:
no clocks, no files, no random numbers.
"""

from nightlab.evals.statistics.budget import FalseKeepBudget
from nightlab.evals.statistics.noise import NoiseFloor
from nightlab.evals.statistics.paired import (
    Estimate,
    Judgement,
    PairedRule,
    PairedTest,
    lower_confidence_bound,
)
from nightlab.evals.statistics.screening import Screening, ScreenRule, screen

__all__ = [
    "Estimate",
    "FalseKeepBudget",
    "Judgement",
    "NoiseFloor",
    "PairedRule",
    "PairedTest",
    "ScreenRule",
    "Screening",
    "lower_confidence_bound",
    "screen",
]
