"""From a sentence to lexemes: the field's words, numbers with their units, and the rest."""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from nightlab.agents.goal import words

FLAGS = re.IGNORECASE | re.ASCII
DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
SCALE = r"(?:k|(?-i:M)|bn|(?-i:B)|m(?=\s*(?:param|model|token)))(?![a-z])"
NUMBER = re.compile(rf"(?P<n>[-+]?(?:{DIGITS})(?:e[-+]?\d+)?)(?P<s>{SCALE})?", FLAGS)
CLOCK = re.compile(
    r"(?P<until>until|till|by)\s+(?P<day>tomorrow\s+)?(?:at\s+)?"
    rf"(?:(?P<word>{'|'.join(words.CLOCK_WORDS)})|(?P<h>\d{{1,2}})(?::(?P<m>\d\d))?"
    r"(?:\s*(?P<half>am|pm))?)(?![\w:%]|\.\d)",
    FLAGS,
)
WORD = re.compile(r"\w(?:[\w@.'/-]*\w)?|\S")
PUNCTUATION = ".,;:!?()\"'-"


@dataclass(frozen=True, kw_only=True)
class Lexeme:
    """A piece of the sentence with one meaning."""

    kind: str
    """What the grammar's patterns call it, such as ``metric`` or ``percent``."""
    start: int
    end: int
    number: float = math.nan
    """Its value: percent, seconds, a factor, a bound; NaN where it has none."""
    name: str = ""
    """The metric, unit or comparison it stands for."""
    context: int | None = None
    """Context length at which a metric is asked for, in tokens."""


def normal(sentence: str) -> str:
    """The sentence on one line of plain characters (full-width digits, odd blanks, quotes)."""
    text = unicodedata.normalize("NFKC", sentence).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    text = text.replace("\N{MINUS SIGN}", "-").replace("\N{NON-BREAKING HYPHEN}", "-")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def lexemes(sentence: str, metrics: Iterable[str]) -> Iterator[Lexeme]:
    """The normalised sentence in pieces; what is not in the vocabulary has the kind ``unread``."""
    phrases = _phrases(tuple(sorted(metrics)))
    at = 0
    while at < len(sentence):
        if sentence[at] == " ":
            at += 1
            continue
        found = _clock(sentence, at) or _number(sentence, at) or _phrase(sentence, at, phrases)
        yield found or _other(sentence, at)
        at = found.end if found else _other(sentence, at).end


def number(text: str) -> float:
    """A number as the field writes it: ``4k``, ``1.5M``, ``200,000``, ``1e-3``.

    Raises ValueError for anything else.
    """
    match = NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a number")
    return float(match["n"].replace(",", "")) * words.SCALES[(match["s"] or "").lower()]


def _number(sentence: str, at: int) -> Lexeme | None:
    match = NUMBER.match(sentence, at)
    if match is None:
        return None
    value = number(match[0])
    kind = "number" if math.isfinite(value) else "unread"
    scale = (match["s"] or "").lower()
    return Lexeme(kind=kind, start=at, end=match.end(), number=value, name=scale)


def _clock(sentence: str, at: int) -> Lexeme | None:
    match = CLOCK.match(sentence, at)
    if match is None:
        return None
    told = match["word"] or match["m"] or match["half"]
    if match["until"].lower() == "by" and not told:
        return None
    minutes = _minutes(match)
    kind = "unread" if minutes is None else "clock"
    name = "tomorrow" if match["day"] and not match["word"] else ""
    return Lexeme(kind=kind, start=at, end=match.end(), number=minutes or 0.0, name=name)


def _minutes(match: re.Match[str]) -> float | None:
    if match["word"]:
        return words.CLOCK_WORDS[" ".join(match["word"].lower().split())]
    hour, minute, half = int(match["h"]), int(match["m"] or 0), (match["half"] or "").lower()
    if minute > 59 or not (1 <= hour <= 12 if half else hour <= 23):
        return None
    return (hour % 12 + 12 * (half == "pm") if half else hour) * 60.0 + minute


Phrases = Mapping[str, list[tuple[re.Pattern[str], str, float, str]]]


@cache
def _phrases(metrics: tuple[str, ...]) -> Phrases:
    """Patterns of every phrase by its first letter, longest first, and what each means."""
    nothing = math.nan
    rows = [(name, "metric", nothing, name) for name in metrics]
    rows += [(base, "metric", nothing, base) for base in words.METRICS]
    rows += [(p, "metric", nothing, base) for base, ps in words.METRICS.items() for p in ps]
    rows += [(p, kind, nothing, p) for kind, ps in words.KINDS.items() for p in ps]
    rows += [(p, "compare", nothing, op) for op, ps in words.COMPARES.items() for p in ps]
    rows += [(p, "times", value, "") for p, value in words.TIMES.items()]
    rows += [(p, "fraction", value, "") for p, value in words.FRACTIONS.items()]
    rows += [(p, "number", value, "") for p, value in words.SPELLED.items()]
    rows += [(p, "duration", value, "") for p, value in words.DURATIONS.items()]
    rows += [(p, "second", value, "") for p, value in words.SECONDS.items()]
    rows += [(p, "unit", value, of) for p, (of, value) in words.UNITS.items()]
    rows += [(p, "unread", nothing, "hint") for p in words.HINTS]
    rows.sort(key=lambda row: -len(row[0]))
    found: dict[str, list[tuple[re.Pattern[str], str, float, str]]] = {}
    for phrase, kind, value, name in rows:
        row = (_spelled(phrase, kind), kind, value, name)
        found.setdefault(phrase[0].lower(), []).append(row)
    return found


def _spelled(phrase: str, kind: str) -> re.Pattern[str]:
    """Blanks, hyphens and underscores are the same; units may touch the number that follows."""
    text = r"[\s_-]+".join(re.escape(part) for part in re.split(r"[\s_]+", phrase))
    edge = r"(?![a-z_@/])" if kind in {"second", "unit", "x"} else r"(?![\w@])"
    return re.compile(text + (edge if phrase[-1].isalnum() else ""), FLAGS)


def _phrase(sentence: str, at: int, phrases: Phrases) -> Lexeme | None:
    for pattern, kind, value, name in phrases.get(sentence[at].lower(), ()):
        if match := pattern.match(sentence, at):
            return Lexeme(kind=kind, start=at, end=match.end(), number=value, name=name)
    return None


def _other(sentence: str, at: int) -> Lexeme:
    match = WORD.match(sentence, at)
    end = match.end() if match else at + 1
    kind = "stop" if sentence[at] in PUNCTUATION else "unread"
    return Lexeme(kind=kind, start=at, end=at + 1 if kind == "stop" else end)
