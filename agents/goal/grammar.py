"""The grammar: patterns of lexemes, and the clause that each one makes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nightlab.agents.goal.lexeme import Lexeme
from nightlab.agents.goal.pattern import matched


@dataclass(frozen=True)
class Clause:
    """A part of the sentence that says one thing."""

    kind: str
    """The name of the rule that read it: one of :data:`RULES`, or ``unread``."""
    parts: tuple[Lexeme, ...]

    @property
    def start(self) -> int:
        return self.parts[0].start

    @property
    def end(self) -> int:
        return max(part.end for part in self.parts)

    def all(self, *kinds: str) -> list[Lexeme]:
        """Its lexemes of these kinds, in order."""
        return [part for part in self.parts if part.kind in kinds]

    def first(self, *kinds: str) -> Lexeme | None:
        """Its first lexeme of these kinds."""
        return next(iter(self.all(*kinds)), None)

    def has(self, *kinds: str) -> bool:
        return self.first(*kinds) is not None


VALUE = "(number | quantity | duration | percent | share | times | fraction)"
COUNTED = "(duration | trials | usd | tokens | gpu)"
BY = "by compare? (percent | share | times | fraction | number | quantity) (?! metric)"
TO = f"(to compare? | compare) {VALUE} (?! metric | more | less | worse)"
THAN = "(more | less | better | worse | faster | slower | raise | lower)"
AMOUNT = f"({BY} | {TO} | (percent | times) (?! metric | {THAN}))"
VERB = "(lower | shrink | raise | improve | speed | halve | double)"
MANY = f"metric (metric (?! {AMOUNT} | within | equal))*"
LEAD = "(with | keep | at)*"

RULES: tuple[tuple[str, str], ...] = (
    ("bound", f"{LEAD} metric compare {VALUE} (?! {THAN})"),
    ("budget", f"(in | within | with | to)* compare? {COUNTED}"),
    ("clock", "overnight? clock | overnight"),
    ("no more", f"{LEAD} without (more | raise) {MANY}"),
    ("no less", f"{LEAD} without (less | lower) {MANY}"),
    ("no worse", f"{LEAD} without worse ({MANY})?"),
    ("no slower", f"{LEAD} without slower metric?"),
    ("same", f"{LEAD} equal {MANY} | {LEAD} metric equal"),
    ("near", f"{LEAD} within (percent | share) metric? | {LEAD} metric within (percent | share)"),
    ("near", "with* worse compare percent metric"),
    ("change", f"{LEAD} compare? (percent | times | fraction) {THAN} metric?"),
    ("change", f"{LEAD} (with | keep) {THAN} metric ({BY})?"),
    ("change", f"{LEAD} (more | less | better | faster) metric ({BY})?"),
    ("bound", f"{LEAD} compare {VALUE} metric"),
    ("bound", f"{LEAD} (fraction | share | times) metric"),
    ("bound", f"{LEAD} (with | keep) (number | quantity) metric"),
    ("same", f"{LEAD} keep {MANY}"),
    ("aim change", f"get metric compare? (percent | times | fraction)? {THAN} ({BY})?"),
    ("aim change", f"get compare? (percent | times | fraction)? {THAN} ({BY})?"),
    ("aim", f"get? to? {VERB} metric ({AMOUNT})?"),
    ("aim", f"get? to? {VERB} (percent | fraction | times) metric"),
    ("aim", f"get? to? (improve | shrink | speed) ({AMOUNT})?"),
    ("aim", f"get? to? {VERB} metric"),
    ("aim", f"get metric ({AMOUNT} | to? {VALUE})?"),
    ("aim", "get metric"),
    ("aim", "get number metric"),
    ("aim", f"metric ({AMOUNT})?"),
    ("aim", "metric"),
    ("amount", AMOUNT),
    ("apart", "apart"),
    ("nothing", f"to (?= get | keep | {VERB})"),
    ("nothing", f"get (?= with | compare | within | fraction | percent | times | {THAN})"),
)
"""Tried in this order at each place of the sentence; the first that matches and that
:func:`makes_sense` accepts makes the clause."""  # fmt: skip


def clauses(lexemes: Sequence[Lexeme]) -> Iterator[Clause]:
    """The sentence in clauses; a lexeme that no rule takes is a clause ``unread``."""
    at = 0
    while at < len(lexemes):
        clause = _clause(lexemes, at)
        yield clause
        at += len(clause.parts)


def _clause(lexemes: Sequence[Lexeme], at: int) -> Clause:
    for kind, pattern in RULES:
        if size := matched(pattern, lexemes, at):
            clause = Clause(kind, tuple(lexemes[at : at + size]))
            if makes_sense(clause):
                return clause
    return Clause("unread", (lexemes[at],))


def makes_sense(clause: Clause) -> bool:
    """Whether a time is compared only with a metric that is a time.

    "Lower val_bpb under 10 minutes" bounds the campaign, "decode latency under 2 s" the metric.
    """
    if clause.kind not in {"bound", "aim", "amount"} or not clause.has("duration"):
        return True
    metric = clause.first("metric")
    return metric is not None and "_ms" in metric.name
