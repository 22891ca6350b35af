"""The kernels' API card: what a program may import, with signatures, read from their source."""

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from nightlab.agents.catalogue import syntax
from nightlab.agents.vet import KERNELS

FOLDER = Path(__file__).parents[2] / "kernels"
SHOWN = {
    "index_cache": (
        *("SparseAttention", "IndexPattern", "LightningIndexer", "IndexCache"),
        *("sparse_attention", "select_tokens", "topk_select"),
    ),
    "kv": ("KVCache", "Setup", "policy", "evict", "prefill_and_evict", "generate"),
}
"""Names with a signature, by package; the others are listed by name."""


@lru_cache(maxsize=1)
def kernels() -> str:
    """The card: a line for each package, and one for each name that has a signature."""
    lines = ["Efficient kernels, each with a plain-PyTorch twin, that a program may import:"]
    for path in sorted(FOLDER.glob("*/__init__.py")):
        tree, package = _tree(path), path.parent.name
        about = (ast.get_docstring(tree) or "").partition("\n")[0]
        lines.append(f"- {KERNELS}.{package}: {about}")
        shown = SHOWN.get(package, ())
        homes = _homes(tree)
        lines += [f"    {signature(homes[name], name)}" for name in shown if name in homes]
        lines.append(f"    also {', '.join(n for n in _all(tree) if n not in shown)}")
    return "\n".join(lines)


def signature(path: Path, name: str) -> str:
    """A function's or a class's call with types, and the first line of its docstring.

    Raises:
        KeyError: the module defines no such name.
    """
    for node in _tree(path).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            back = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            return _line(f"{name}({_arguments(node.args)}){back}", node)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _line(f"{name}({_made_of(node)})", node)
    raise KeyError(f"{path.name} defines no {name}")


def _line(call: str, node: ast.FunctionDef | ast.ClassDef) -> str:
    about = (ast.get_docstring(node) or "").partition("\n")[0]
    return f"{call}  # {about}" if about else call


def _made_of(node: ast.ClassDef) -> str:
    """What a class is made of: its initialiser's arguments, or a dataclass's fields."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return _arguments(part.args)
    fields = (part for part in node.body if isinstance(part, ast.AnnAssign))
    return ", ".join(ast.unparse(part) for part in fields if part.simple)


def _arguments(arguments: ast.arguments) -> str:
    text = ast.unparse(arguments)
    return text.removeprefix("self, ").removeprefix("self")


def _homes(tree: ast.Module) -> dict[str, Path]:
    """Which module of a package defines each name that it exports."""
    found: dict[str, Path] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(KERNELS):
            inside = (node.module or "").removeprefix(f"{KERNELS}.").replace(".", "/")
            found |= {alias.name: FOLDER / f"{inside}.py" for alias in node.names}
    return found


def _all(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            yield from (str(name) for name in ast.literal_eval(node.value))


def _tree(path: Path) -> ast.Module:
    return syntax.read(path.read_text(encoding="utf-8"))
