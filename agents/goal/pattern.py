"""Regular expressions over the kinds of lexemes: ``without more metric`` matches three of them."""

import re
from collections.abc import Sequence
from functools import cache

from nightlab.agents.goal.lexeme import Lexeme


def matched(pattern: str, lexemes: Sequence[Lexeme], at: int) -> int:
    """How many lexemes from ``at`` on the pattern matches; 0 where it does not.

    A pattern is a regular expression whose words are kinds; blanks in it only separate.
    """
    found = _compiled(pattern).match("".join(lexeme.kind + "_" for lexeme in lexemes[at:]))
    return found[0].count("_") if found else 0


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"[a-z]+", r"(?:\g<0>_)", pattern).replace(" ", ""))
