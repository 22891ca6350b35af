"""Vet: cheap refusals before any training. The smoke test itself runs inside a sandbox."""

import ast
import contextlib
from collections.abc import Set

from nightlab.agents.catalogue import syntax
from nightlab.evals.task import Task
from nightlab.vocabulary import Program, Tier

ALLOWED_IMPORTS = frozenset(
    {"torch", "numpy", "math", "typing", "dataclasses", "collections", "functools", "itertools"}
    | {"nightlab", "abc", "enum", "copy", "operator", "warnings", "contextlib", "__future__"}
)
KERNELS = "nightlab.kernels"
MAX_FILE_BYTES = 200_000


def own_imports(task: Task) -> frozenset[str]:
    """What programs of a task may import beside what all may: the files frozen beside them, and
    whatever the person's own files import."""
    if task.script is None:
        return frozenset()
    files = {**task.baseline.files, **task.script.frozen}
    texts = [text for name, text in files.items() if name.endswith(".py")]
    found = {name.removesuffix(".py") for name in task.script.frozen}
    with contextlib.suppress(SyntaxError, ValueError):  # said in words when the program is vetted
        found |= {module.partition(".")[0] for t in texts for module in _imports(syntax.read(t))}
    return frozenset(found)


def refuse(parent: Program, program: Program, also: Set[str] = frozenset()) -> str | None:
    """Why a program is refused without running it, or None.

    It may only change the parent's files, must parse, and may import only what a sandbox has, and
    the modules in ``also``.
    """
    if unknown := set(program.files) ^ set(parent.files):
        return f"edits files it may not touch: {', '.join(sorted(unknown))}"
    for name, text in program.files.items():
        if len(text.encode()) > MAX_FILE_BYTES:
            return f"{name} is longer than {MAX_FILE_BYTES} bytes"
        try:
            tree = syntax.read(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return f"{name} does not parse: {error}"
        local = {file.removesuffix(".py") for file in program.files} | also
        for module in _imports(tree):
            if not _allowed(module, local):
                return f"{name} imports {module}, which is not allowed"
    return None


def refuse_tier(tier: Tier, author: str, *, unsafe: bool) -> str | None:
    """Why this author's code may not run on this tier, or None."""
    if tier is not Tier.PROCESS or author == "catalogue" or unsafe:
        return None
    return (
        f"code by {author} needs a sandbox that isolates: install bubblewrap or Docker, "
        "or accept the risk with --unsafe"
    )


def _imports(tree: ast.Module) -> list[str]:
    modules = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append("." if node.level else node.module or ".")
    return modules


def _allowed(module: str, local: set[str]) -> bool:
    top = module.partition(".")[0]
    if top == "nightlab":
        return module == KERNELS or module.startswith(KERNELS + ".")
    return top in ALLOWED_IMPORTS or top in local
