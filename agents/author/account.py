"""Who proposed in a campaign, in what form, and what came of it: from the ledger's rows alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from nightlab.agents.author.write import FORMAT
from nightlab.agents.question import UNANSWERED
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import JSON, Call, Experiment
from nightlab.vocabulary import Verdict


@dataclass(frozen=True, kw_only=True)
class Account:
    """What one author handed in, in one form."""

    author: str
    form: str
    """How a model handed it in; ``operators`` for the catalogue."""
    proposals: int
    """Those that its author answered for, with a verdict."""
    valid: int
    """Not refused before training."""
    confirmed: int
    unanswered: int
    requests: int
    tokens: int
    usd: float | None
    """None where some request has no known price."""

    @property
    def share(self) -> float | None:
        """Valid proposals of all."""
        return self.valid / self.proposals if self.proposals else None


def accounts(ledger: Ledger, campaign: str) -> list[Account]:
    """An account for each author and form, as the campaign stands."""
    groups: dict[tuple[str, str], list[Experiment]] = {}
    for experiment in ledger.experiments(campaign):
        if experiment.number and experiment.verdict is not None:
            groups.setdefault(_who(ledger, experiment), []).append(experiment)
    return [_account(ledger, *who, some) for who, some in sorted(groups.items())]


def _who(ledger: Ledger, experiment: Experiment) -> tuple[str, str]:
    heads = {d.head.partition(":")[2] or d.head: d.action for d in ledger.decisions(experiment.id)}
    author = experiment.author or heads.get("author", "nobody")
    return author, heads.get(FORMAT, "operators")


def _account(ledger: Ledger, author: str, form: str, some: Sequence[Experiment]) -> Account:
    calls: list[Call] = []
    for experiment in some:
        calls += ledger.calls(experiment.campaign, experiment=experiment.id)
    answered = [e for e in some if not e.reason.startswith(UNANSWERED)]
    known = [call.usd for call in calls if call.usd is not None]
    return Account(
        author=author,
        form=form,
        proposals=len(answered),
        valid=sum(e.verdict is not Verdict.INVALID for e in answered),
        confirmed=sum(e.verdict is Verdict.CONFIRMED for e in answered),
        unanswered=len(some) - len(answered),
        requests=len(calls),
        tokens=sum(call.tokens_in + call.tokens_out for call in calls),
        usd=sum(known) if len(known) == len(calls) else None,
    )


def describe(found: Sequence[Account]) -> str:
    """A Markdown table; empty where no model proposed."""
    if not any(account.requests or account.unanswered for account in found):
        return ""
    names = ["author", "form", "proposals", "valid", "confirmed"]
    names += ["no answer", "requests", "tokens", "USD"]
    lines = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    for one in found:
        share = "-" if one.share is None else f"{one.valid} ({100 * one.share:.0f} %)"
        price = "unknown" if one.usd is None else f"{one.usd:.4f}"
        author = one.author.replace("|", "/").replace("`", "'")
        cells = [f"`{author}`", one.form, str(one.proposals), share, str(one.confirmed)]
        cells += [str(one.unanswered), str(one.requests), f"{one.tokens:,}", price]
        lines.append(f"| {' | '.join(cells)} |")
    told = "A valid proposal was not refused before training. Requests include repairs and lessons."
    return "\n".join([*lines, "", told])


def document(found: Sequence[Account]) -> list[JSON]:
    """The same, of JSON's own types."""
    return [{**vars(one), "share": one.share} for one in found]
