"""Data in prompts: delimited, capped, never able to look like an instruction of ours."""

import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from nightlab.agents.author.card import kernels
from nightlab.agents.author.formats import Format
from nightlab.agents.catalogue import Operator
from nightlab.agents.vet import ALLOWED_IMPORTS, KERNELS

HERE = Path(__file__).parent


class Quoting:
    """Delimiters of one conversation, which no older text can know."""

    def __init__(self, tag: str | None = None) -> None:
        self.tag = tag or f"data-{secrets.token_hex(4)}"

    def quote(self, name: str, text: str, most: int) -> str:
        """The text as data under a name, at most ``most`` characters of it."""
        clean = re.sub(r"</?\s*data[-\w]*", "<quoted", printable(text), flags=re.IGNORECASE)
        if len(clean) > most:
            half = most // 2
            left_out = len(clean) - 2 * half
            clean = f"{clean[:half]}\n[... {left_out} characters left out ...]\n{clean[-half:]}"
        return f'<{self.tag} name="{name}">\n{clean}\n</{self.tag}>'


def printable(text: str) -> str:
    """The text without control characters, which hide things from people."""
    return "".join(c for c in text if c in "\n\t" or (c.isprintable() and c != "\ufeff"))


def system(tag: str, form: Format = Format.BLOCKS) -> str:
    """What a model is told of its work: shorter where it writes no code."""
    if form is Format.CHOICE:
        return (HERE / "chooser.md").read_text(encoding="utf-8").format(tag=tag)
    text = (HERE / "researcher.md").read_text(encoding="utf-8")
    imports = ", ".join(sorted((ALLOWED_IMPORTS - {"nightlab"}) | {KERNELS}))
    return text.format(imports=imports, tag=tag, kernels=kernels())


def instruction(form: Format, files: Iterable[str], offered: Iterable[Operator]) -> str:
    """How the answer must look."""
    start = "Answer with one line `HYPOTHESIS: what you change and why it should help`, then "
    name = next(iter(files))
    match form:
        case Format.BLOCKS:
            return f"""{start}one or more blocks:
{name}
<<<<<<< SEARCH
exact consecutive lines of the file, enough of them to be found once
=======
the lines that stand there instead
>>>>>>> REPLACE"""
        case Format.WHOLE:
            return f"{start}each changed file whole, its name on a line of its own, then its text \
fenced in ```python and ```. Leave nothing out."
        case Format.PATCH:
            return f"""{start}one patch:
*** Begin Patch
*** Update File: {name}
@@ class or def above the change
 a line that stays
-a line that goes
+a line that comes
*** End Patch"""
        case Format.CHOICE:
            return _menu(list(offered))


def _menu(offered: list[Operator]) -> str:
    return f"""Task: choose one to three of these edits, of different parts:
{numbered(offered)}
Answer with JSON and nothing else, the names as they stand in the list:
{{"operators": ["{offered[0].name}"], "hypothesis": "why it should help"}}"""


def by_number(offered: Sequence[Operator], aim: str) -> str:
    """How to choose without JSON or data, in a few tokens: what a small model can do anywhere."""
    return (
        f"Which of these edits is the most promising to {aim}?\n{numbered(offered)}\n"
        f"Answer with its number, from 1 to {len(offered)}, and nothing else."
    )


def again(form: Format, offered: Sequence[Operator]) -> str:
    """How to answer once more, after a fault; a choice is asked for in its simplest form."""
    if form is not Format.CHOICE:
        return "Answer again in the same form, for the program as it was first shown."
    return (
        f"Choose from this list:\n{numbered(offered)}\n"
        f"Answer with one number from 1 to {len(offered)} and nothing else."
    )


def numbered(offered: Iterable[Operator]) -> str:
    """Operators with their reasons, numbered from 1."""
    return "\n".join(f"{i}. {o.name}  {o.hypothesis}" for i, o in enumerate(offered, 1))
