"""From the endpoints that a person configured to the models of one campaign."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from nightlab.agents.model import Model
from nightlab.agents.question import Endpoint
from nightlab.agents.spending import Spending, price_of, prices
from nightlab.errors import UsageError
from nightlab.vocabulary import Budget


def connect(
    endpoints: Sequence[Endpoint],
    budget: Budget,
    home: Path,
    stopping: threading.Event,
    *,
    tokens: int = 0,
    usd: float = 0.0,
) -> Mapping[str, Model]:
    """One model for each endpoint, on one budget of which ``tokens`` and ``usd`` are spent.

    Raises:
        UsageError: the budget is in USD and a price is unknown.
        MissingError: an endpoint does not answer.
    """
    table = prices(home / "prices.toml")
    spending = Spending(most_tokens=budget.tokens, most_usd=budget.usd, tokens=tokens, usd=usd)
    models = {}
    for endpoint in endpoints:
        price = price_of(endpoint.name, table)
        if price is None and budget.usd is not None:
            raise UsageError(
                f"the price of {endpoint.name} is unknown, so a budget in USD cannot be kept: add "
                f"it to {home / 'prices.toml'}, or bound the tokens instead"
            )
        models[endpoint.name] = Model(endpoint, price, spending, stopping)
    for model in models.values():
        model.check()
    return models
