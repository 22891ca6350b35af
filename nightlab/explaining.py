"""Why the policy decided as it did: what ``show --policy`` prints and the report's section."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nightlab.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nightlab.agents.policy.explain import Preference, Reason
    from nightlab.agents.reasons import Standing, Why
    from nightlab.memory.ledger import Ledger
    from nightlab.memory.report.write import Section

FEATURES = 4
"""Attributions shown of one head."""


@dataclass(frozen=True)
class Shown:
    """A document and the same for a terminal."""

    document: Mapping[str, object]
    screen: "Callable[[], RenderableType]"


def policy(ledger: "Ledger", home: Path, name: str) -> Shown:
    """The policy of a campaign, or its part in an experiment.

    Raises:
        UsageError: a trial has no policy; or there is no such campaign or experiment.
        MissingError: the experiment has no decision.
    """
    from nightlab.agents import reasons

    if "/" in name:
        experiment = name.partition("/")[0]
        raise UsageError(f"a trial decides nothing: nightlab show {experiment} --policy")
    if "-" in name:
        why = reasons.why(ledger, home, name)
        return Shown(reasons.why_document(why), lambda: _why_screen(why))
    standing = reasons.standing(ledger, home, name)
    return Shown(reasons.standing_document(standing), lambda: _standing_screen(standing))


def sections(ledger: "Ledger", home: Path, campaign: str) -> "list[Section]":
    """What the report says of who proposed, where models did, and of the policy."""
    from nightlab.agents import reasons
    from nightlab.agents.author import account
    from nightlab.memory.report.documents import jsonable
    from nightlab.memory.report.write import Section

    found: list[Section] = []
    authors = account.accounts(ledger, campaign)
    if told := account.describe(authors):
        rows = jsonable(account.document(authors))
        found.append(Section(title="Who proposed", key="authors", text=told, document=rows))
    standing = reasons.standing(ledger, home, campaign)
    if standing.decisions:
        document = jsonable(reasons.standing_document(standing))
        text = reasons.markdown(standing)
        found.append(Section(title="The policy", key="policy", text=text, document=document))
    return found


def _why_screen(why: "Why") -> "RenderableType":
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    from nightlab.memory.report import screens, words

    decision = why.decision
    edits = ", ".join(f"{part}={variant}" for part, variant in decision.edits)
    rows: list[tuple[str, RenderableType]] = [
        ("decided", screens.text(edits or "-")),
        ("parent", f"{decision.parent}, taken {why.visits} times before"),
        ("by", screens.text(f"{decision.policy} {decision.version}")),
        ("chance", f"{words.number(decision.propensity)} of the whole choice"),
    ]
    if decision.note:
        rows.append(("note", screens.text(decision.note)))
    state = ", ".join(f"{name} {value:g}" for name, value in decision.context.items())
    rows.append(("situation", screens.text(state)))
    title = screens.text(f"{why.experiment}: why", "bold")
    parts: list[RenderableType] = [
        Panel(screens.facts(rows), title=title, title_align="left"),
        _heads(why.reasons),
    ]
    if not why.attributed:
        parts.append(Text("no weights decided it: chances are the prior's, with a floor", "dim"))
    return Group(*parts)


def _heads(reasons: "Sequence[Reason]") -> "RenderableType":
    from nightlab.memory.report import screens

    names = ("head", "chosen", "chance", "prior", "value", "place", "because of")
    table = screens.columns(*names, right=names[2:6], fold=("because of",))
    for reason in reasons:
        table.add_row(
            reason.head,
            screens.text(reason.chosen),
            f"{reason.probability:.1%}",
            f"{reason.prior:.1%}",
            "-" if reason.value is None else f"{reason.value:+.2f}",
            f"{reason.rank} of {reason.options}",
            screens.text(_because(reason)),
        )
    return table


def _because(reason: "Reason") -> str:
    """The largest attributions; without weights what the prior read."""
    if reason.attribution:
        largest = list(reason.attribution.items())[:FEATURES]
        return ", ".join(f"{name} {size:+.2f}" for name, size in largest)
    told = ("mean", "deviation", "count", "puct", "visits", "rank")
    return ", ".join(f"{n} {reason.features[n]:g}" for n in told if n in reason.features)


def _standing_screen(found: "Standing") -> "RenderableType":
    from rich.console import Group
    from rich.panel import Panel

    from nightlab.agents import reasons
    from nightlab.memory.report import screens

    made = ", ".join(f"{name} {count}" for name, count in found.versions.items())
    rows: list[tuple[str, RenderableType]] = [
        ("began", found.began),
        ("in charge", screens.text(found.version)),
        ("decisions", screens.text(f"{found.decisions}: {made}" if made else "none")),
        ("worth", screens.text(reasons.worth_words(found))),
        *(("learned", screens.text(line)) for line in found.log[-FEATURES:]),
    ]
    title = screens.text(f"{found.campaign}: its policy", "bold")
    parts: list[RenderableType] = [Panel(screens.facts(rows), title=title, title_align="left")]
    if found.preferences:
        parts.append(_preferences(found.preferences, reasons.compared_with(found), reasons.SHOWN))
    if found.winner is not None and found.winner.reasons:
        parts += [screens.text(f"why {found.winner.experiment}, the winner, was tried", "bold")]
        parts.append(_heads(found.winner.reasons))
    return Group(*parts)


def _preferences(preferences: "Sequence[Preference]", against: str, shown: int) -> "RenderableType":
    from nightlab.memory.report import screens

    names = ("head", "prefers", "draws", against.removeprefix("a ").removeprefix("its "), "of")
    table = screens.columns(*names, right=names[2:])
    for each in preferences[:shown]:
        chances = (f"{each.policy:.1%}", f"{each.prior:.1%}", str(each.decisions))
        table.add_row(each.head, screens.text(each.option), *chances)
    return table
