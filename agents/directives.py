"""A person's wishes in plain words, as far as the policy can follow them; models read them whole.

``try linear attention, leave the optimizer alone`` allows the attention's parts and closes the
optimizer's. Words that name nothing on the menu restrict nothing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nightlab.agents.lab import Lab
from nightlab.agents.policy.interface import Head, Menu

NOTE = "note"
FORGET = re.compile(r"\b(forget|drop|ignore)\b.*\b(directives?|wishes|that|everything)\b", re.I)
AVOID = re.compile(
    r"\b(?:leave|keep(?!\W*$)|do not|don't|dont|never|no more|not|avoid|without|stop)\b",
    re.IGNORECASE,
)
AUTHORS = {"catalogue": "catalogue", "operators": "catalogue"}


@dataclass(frozen=True)
class Wish:
    """What one directive allows and forbids, by names of the menu."""

    parts: frozenset[str] = frozenset()
    """Allowed; empty where nothing is asked for."""
    not_parts: frozenset[str] = frozenset()
    variants: frozenset[str] = frozenset()
    not_variants: frozenset[str] = frozenset()
    authors: frozenset[str] = frozenset()

    def __str__(self) -> str:
        said = {
            "only": self.parts | self.variants | self.authors,
            "not": self.not_parts | self.not_variants,
        }
        found = [f"{word} {', '.join(sorted(names))}" for word, names in said.items() if names]
        return "; ".join(found) or "names nothing on the menu"


def understood(text: str, menu: Menu) -> Wish:
    """Read a directive clause by clause."""
    wanted: dict[bool, tuple[set[str], set[str]]] = {True: (set(), set()), False: (set(), set())}
    authors: set[str] = set()
    for clause in re.split(r"[,;.]|\b(?:and|but)\b", text.lower()):
        avoid = bool(AVOID.search(clause))
        parts, variants = wanted[not avoid]
        for part in menu.parts:
            if _says(clause, part.name):
                parts.add(part.name)
            if not part.ordered:
                variants |= {v for v in part.variants if len(v) > 3 and _says(clause, v)}
        if not avoid:
            named = {name for word, name in AUTHORS.items() if _says(clause, f"only the {word}")}
            authors |= named | {a for a in menu.authors if "only" in clause and a.lower() in clause}
    (parts, variants), (not_parts, not_variants) = wanted[True], wanted[False]
    return Wish(
        parts=frozenset(parts - not_parts),
        not_parts=frozenset(not_parts),
        variants=frozenset(variants - not_variants),
        not_variants=frozenset(not_variants),
        authors=frozenset(authors),
    )


def _says(clause: str, name: str) -> bool:
    words = name.lower().replace("_", "[ _-]?")
    return re.search(rf"\b{words}s?\b", clause) is not None


def restriction(wishes: Sequence[Wish], menu: Menu) -> Mapping[Head, frozenset[str]]:
    """What the wishes together leave open, per head; heads without a wish are left out."""
    only: dict[Head, frozenset[str]] = {}
    owners = {v: p.name for p in menu.parts for v in p.variants if not p.ordered}
    variants = frozenset[str]().union(*(w.variants for w in wishes))
    owning = {owners[v] for v in variants}
    whole = frozenset[str]().union(*(w.parts for w in wishes)) - owning
    parts = whole | owning
    not_parts = frozenset[str]().union(*(w.not_parts for w in wishes))
    not_variants = frozenset[str]().union(*(w.not_variants for w in wishes))
    everything = frozenset(part.name for part in menu.parts)
    if parts or not_parts:
        only[Head.PART] = (parts or everything) - not_parts
    if variants or not_variants:
        known = frozenset(v for part in menu.parts for v in part.variants)
        named = variants | {v for p in menu.parts if p.name in whole for v in p.variants}
        only[Head.VARIANT] = (named if variants else known) - not_variants | {"free"}
    if authors := frozenset[str]().union(*(w.authors for w in wishes)):
        only[Head.AUTHOR] = authors
    return only


def take_up(lab: Lab, menu: Menu) -> Mapping[Head, frozenset[str]]:
    """The restriction of every standing directive; new ones are acknowledged in the log."""
    standing: list[Wish] = []
    for directive in lab.ledger.directives(lab.campaign.id):
        if directive.kind != NOTE:
            continue
        forget = bool(FORGET.search(directive.text))
        wish = Wish() if forget else understood(directive.text, menu)
        standing = [] if forget else [*standing, wish]
        if directive.seen is None:
            meaning = "earlier directives are dropped" if forget else str(wish)
            lab.ledger.mark_seen(directive.id)
            lab.log("directive", f"taken up: {directive.text[:200]!r} ({meaning})")
    return restriction(standing, menu)
