"""Data in prompts: delimited, capped, never able to look like an instruction of ours."""

import ast
import re
import secrets
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from nightlab.agents.author.formats import Format
from nightlab.agents.catalogue import Operator, syntax
from nightlab.agents.vet import ALLOWED_IMPORTS, KERNELS

HERE = Path(__file__).parent
CARD_LINES = 12


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


def system(tag: str) -> str:
    """What a model is told of its work."""
    text = (HERE / "researcher.md").read_text(encoding="utf-8")
    imports = ", ".join(sorted((ALLOWED_IMPORTS - {"nightlab"}) | {KERNELS}))
    return text.format(imports=imports, tag=tag, kernels=kernels())


@lru_cache(maxsize=1)
def kernels() -> str:
    """The kernels' public names, from their source."""
    lines = ["Efficient kernels, each with a plain-PyTorch twin, that a program may import:"]
    for path in sorted((HERE.parents[1] / "kernels").glob("*/__init__.py")):
        tree = syntax.read(path.read_text(encoding="utf-8"))
        about = (ast.get_docstring(tree) or "").partition("\n")[0]
        lines.append(f"- {KERNELS}.{path.parent.name}: {about} Names: {', '.join(_all(tree))}")
    return "\n".join(lines[: CARD_LINES + 1])


def _all(tree: ast.Module) -> Iterable[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


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
    rows = "\n".join(f"{i}. {o.name}  {o.hypothesis}" for i, o in enumerate(offered, 1))
    return f"""Choose one to three of these edits, of different parts:
{rows}
Answer with JSON and nothing else: {{"hypothesis": "...", "operators": ["{offered[0].name}"]}}"""
