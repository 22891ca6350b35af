"""Lessons: which of them matter now, and whether what they say is still true."""

import re
import sqlite3
from collections.abc import Sequence

from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Lesson

SHOWN = 8
RETIRED = "retire"
"""Kind of the log line that takes a lesson out: ``lesson 12: why``."""


def retired(ledger: Ledger, campaign: str) -> frozenset[int]:
    """Ids of the lessons that a campaign's log took out."""
    events = (e.message for e in ledger.events(campaign) if e.kind == RETIRED)
    found = (re.match(r"lesson (\d+):", message) for message in events)
    return frozenset(int(match.group(1)) for match in found if match)


def retire(ledger: Ledger, campaign: str, lesson: Lesson, why: str) -> None:
    """Take a lesson out of use; it stays in the ledger, and the log says why."""
    ledger.log(campaign, RETIRED, f"lesson {lesson.id}: {why}")


def active(ledger: Ledger, campaign: str) -> list[Lesson]:
    """A campaign's lessons that stand, oldest first."""
    gone = retired(ledger, campaign)
    return [lesson for lesson in ledger.lessons(campaign) if lesson.id not in gone]


def relevant(ledger: Ledger, campaign: str, about: str, most: int = SHOWN) -> list[Lesson]:
    """Lessons that stand, the ones that speak of ``about`` first, then the newest."""
    standing = active(ledger, campaign)
    ranked = _matching(standing, about)
    rest = [lesson for lesson in reversed(standing) if lesson not in ranked]
    return [*ranked, *rest][:most]


def _matching(lessons: Sequence[Lesson], about: str) -> list[Lesson]:
    """By BM25 of a full-text index that is made for the question, whatever the ledger's engine."""
    words = sorted(set(re.findall(r"[a-z0-9]{3,}", about.lower())))
    if not lessons or not words:
        return []
    index = sqlite3.connect(":memory:")
    try:
        index.execute("CREATE VIRTUAL TABLE lesson USING fts5(text, tokenize='porter')")
        index.executemany(
            "INSERT INTO lesson (rowid, text) VALUES (?, ?)",
            [(at, lesson.text.replace("_", " ")) for at, lesson in enumerate(lessons)],
        )
        query = " OR ".join(f'"{word}"' for word in words)
        rows = index.execute(
            "SELECT rowid FROM lesson WHERE lesson MATCH ? ORDER BY bm25(lesson)", (query,)
        ).fetchall()
    finally:
        index.close()
    return [lessons[at] for (at,) in rows]
