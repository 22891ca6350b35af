"""What language models cost: prices from an editable table, and a budget kept ahead of time.

A call reserves the most it can use before it is made and settles for what it did use, so that
several workers together stay within the budget.
"""

import math
import re
import threading
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightlab.errors import UsageError

SHIPPED = Path(__file__).with_name("prices.toml")
MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one call."""

    tokens_in: int = 0
    cached_in: int = 0
    """Those of ``tokens_in`` that the server read from its cache."""
    tokens_out: int = 0
    """Reasoning included."""
    measured: bool = True
    """The server reported them; otherwise they are estimated from the text's length."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """USD for one million tokens."""

    input: float
    output: float
    cached: float

    def of(self, usage: Usage) -> float:
        """USD of one call."""
        fresh = usage.tokens_in - usage.cached_in
        total = fresh * self.input + usage.cached_in * self.cached + usage.tokens_out * self.output
        return total / MILLION


def prices(own: Path | None = None) -> Mapping[str, Price]:
    """The shipped table, overridden by a person's own file where it exists.

    Raises:
        UsageError: a table cannot be read.
    """
    found: dict[str, Price] = {}
    for path in [SHIPPED, *([own] if own is not None and own.is_file() else [])]:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            found |= {name: _price(row) for name, row in table.items()}
        except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path}: {type(error).__name__}: {error}") from None
    return found


def _price(row: Mapping[str, Any]) -> Price:
    cost = float(row["input"])
    price = Price(input=cost, output=float(row["output"]), cached=float(row.get("cached", cost)))
    if not all(math.isfinite(p) and p >= 0 for p in (price.input, price.output, price.cached)):
        raise ValueError("a price is a number of USD, 0 or more")
    return price


def price_of(model: str, table: Mapping[str, Price]) -> Price | None:
    """A model's price by its name, or by its name without the date; None where it is unknown."""
    undated = re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model)
    return table.get(model, table.get(undated))


@dataclass(frozen=True)
class Hold:
    """What a call that is under way may still use."""

    tokens: int
    usd: float


class BudgetSpentError(Exception):
    """A reservation does not fit what is left."""


@dataclass
class Spending:
    """A campaign's tokens and USD: settled and reserved."""

    most_tokens: int | None = None
    most_usd: float | None = None
    tokens: int = 0
    usd: float = 0.0
    _held: list[Hold] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reserve(self, tokens_in: int, tokens_out: int, price: Price | None) -> Hold:
        """Put aside the most that a call can use.

        Raises:
            BudgetSpentError: it would pass the budget, or its price is unknown and USD are bounded.
        """
        if price is None and self.most_usd is not None:
            raise BudgetSpentError("the budget is in USD and the model's price is unknown")
        usage = Usage(tokens_in=tokens_in, tokens_out=tokens_out)
        hold = Hold(tokens_in + tokens_out, price.of(usage) if price else 0.0)
        with self._lock:
            tokens = self.tokens + sum(h.tokens for h in self._held) + hold.tokens
            usd = self.usd + sum(h.usd for h in self._held) + hold.usd
            if self.most_tokens is not None and tokens > self.most_tokens:
                raise BudgetSpentError(
                    f"a call may take {hold.tokens} tokens, {self.most_tokens - self.tokens} of "
                    f"{self.most_tokens} are left"
                )
            if self.most_usd is not None and usd > self.most_usd:
                raise BudgetSpentError(
                    f"a call may take {hold.usd:.4f} USD, {self.most_usd - self.usd:.4f} of "
                    f"{self.most_usd:g} are left"
                )
            self._held.append(hold)
        return hold

    def settle(self, hold: Hold, usage: Usage, usd: float | None) -> None:
        """Exchange a reservation for what the call used."""
        with self._lock:
            self._held.remove(hold)
            self.tokens += usage.tokens_in + usage.tokens_out
            self.usd += usd or 0.0
