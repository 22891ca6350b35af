"""Where the catalogue's code comes from: the variants' own files and the baseline program.

A variant is a top-level definition of ``variants/<part>.py`` whose name has no underscore in
front. What it uses of the same file comes along with it, as companions; what it uses of the
baseline program must exist in the program that is edited; ``recipe.<dial>`` of the file's own
``Recipe`` becomes a field of the program's recipe.
"""

import ast
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType

from nightlab.agents.catalogue import syntax
from nightlab.agents.catalogue.baseline import BASELINE
from nightlab.agents.catalogue.syntax import names_loaded, normal

PARTS: Mapping[str, str] = MappingProxyType(
    {
        "norm": "Norm",
        "position": "Position",
        "embedding": "Embedding",
        "head": "Head",
        "shift": "Shift",
        "scores": "Scores",
        "attention": "Attention",
        "feed_forward": "FeedForward",
        "block": "Block",
        "initialise": "initialise",
        "model": "Model",
        "optimizer": "make_optimizer",
        "schedule": "schedule",
        "eviction": "Eviction",
    }
)
"""Part to the name of its definition in a program."""

BASELINE_TASKS = ("byte_lm", "recall")
"""Tasks whose programs' own parts are variants: a part belongs to the first that has it."""
BASELINE_MODULES = tuple(f"nightlab.evals.tasks.{task}.program" for task in BASELINE_TASKS)


@dataclass(frozen=True)
class Import:
    """One imported name: ``from module import name as alias``, or ``import module``."""

    module: str
    name: str | None
    alias: str | None

    @property
    def bound(self) -> str:
        """The name that the import binds."""
        return self.alias or self.name or self.module.split(".")[0]

    def __str__(self) -> str:
        start = f"from {self.module} import {self.name}" if self.name else f"import {self.module}"
        return f"{start} as {self.alias}" if self.alias else start


@dataclass(frozen=True, kw_only=True, eq=False)
class Variant:
    """One way a part can be, with everything that has to come along with its code."""

    part: str
    name: str
    definition: str
    """Name of the definition in its file; it becomes the part's own name in a program."""
    is_baseline: bool
    """Whether it is the baseline program's own."""
    file: str
    """Source text of the file the definition is in."""
    companions: tuple[str, ...]
    """Other definitions of the file that it uses, in the file's order."""
    imports: tuple[Import, ...]
    needs: frozenset[str]
    """Names of the baseline program that it uses."""
    fields: tuple[str, ...]
    """Recipe fields of the file's own that it reads."""
    normal: str
    """Its normalised syntax tree, under the part's own name."""
    companions_normal: Mapping[str, str]
    why: str
    """The hypothesis, in a sentence."""
    origin: str
    """Where the idea comes from."""


@lru_cache(maxsize=1)
def variants() -> Mapping[tuple[str, str], Variant]:
    """Every variant by (part, name), the baseline's first within each part."""
    found: dict[tuple[str, str], Variant] = {}
    for part, own in PARTS.items():
        baseline = next(text for text in _baseline_files() if _defines(text, own))
        name, why, origin = BASELINE[part]
        found[part, name] = _read(part, name, own, baseline, (why, origin))
        text = _folder_file(part)
        for node in syntax.read(text).body:
            if _is_variant(node):
                assert isinstance(node, ast.ClassDef | ast.FunctionDef)
                name = snake(node.name)
                found[part, name] = _read(part, name, node.name, text, _words(node))
    return MappingProxyType(found)


@lru_cache(maxsize=1)
def version() -> str:
    """Content hash of every variant's source: another version is another environment."""
    texts = [*_baseline_files(), repr(BASELINE), *(_folder_file(part) for part in PARTS)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def snake(name: str) -> str:
    """``GroupedQuery`` as ``grouped_query``; a function's name stays as it is."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _folder_file(part: str) -> str:
    folder = files("nightlab.agents.catalogue.variants")
    return folder.joinpath(f"{part}.py").read_text("utf-8")


@lru_cache(maxsize=1)
def _baseline_files() -> tuple[str, ...]:
    folders = [files(module.removesuffix(".program")) for module in BASELINE_MODULES]
    return tuple(folder.joinpath("program.py").read_text("utf-8") for folder in folders)


def _defines(text: str, name: str) -> bool:
    return any(getattr(node, "name", None) == name for node in syntax.read(text).body)


def _is_variant(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.ClassDef | ast.FunctionDef)
        and not node.name.startswith("_")
        and node.name != "Recipe"
    )


def _words(node: ast.ClassDef | ast.FunctionDef) -> tuple[str, str]:
    """The ``Why:`` and ``From:`` paragraphs of a docstring."""
    text = " ".join((ast.get_docstring(node) or "").split())
    why, origin = text.split("Why: ")[1].split(" From: ")
    return why, origin


def _read(part: str, name: str, definition: str, text: str, words: tuple[str, str]) -> Variant:
    tree = syntax.read(text)
    defined = {
        node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    imported = {each.bound: each for node in tree.body for each in imports_of(node)}
    is_baseline = definition == PARTS[part]
    used = _closure(definition, {} if is_baseline else defined, defined)
    companions = tuple(n for n in defined if n in used and n not in (definition, "Recipe"))
    names = {n for each in (definition, *companions) for n in names_loaded(defined[each])}
    ours = {n for n in names if n in imported and imported[n].module in BASELINE_MODULES}
    if is_baseline:
        ours, companions = (names & set(defined)) - {definition}, ()
    elif "Recipe" in names:
        ours.add("Recipe")
    return Variant(
        part=part,
        name=name,
        definition=definition,
        is_baseline=is_baseline,
        file=text,
        companions=companions,
        imports=tuple(imported[n] for n in sorted(names & set(imported) - ours)),
        needs=frozenset(ours),
        fields=() if is_baseline else _fields(defined, (definition, *companions)),
        normal=normal(defined[definition], PARTS[part]),
        companions_normal={each: normal(defined[each]) for each in companions},
        why=words[0],
        origin=words[1],
    )


def _closure(
    start: str, known: Mapping[str, ast.stmt], defined: Mapping[str, ast.stmt]
) -> set[str]:
    seen, waiting = {start}, [start]
    while waiting:
        names = names_loaded(defined[waiting.pop()]) & set(known) - seen
        seen |= names
        waiting += sorted(names - {"Recipe"})
    return seen


def _fields(defined: Mapping[str, ast.stmt], used: tuple[str, ...]) -> tuple[str, ...]:
    own = defined.get("Recipe")
    if not isinstance(own, ast.ClassDef):
        return ()
    return tuple(field for field in field_names(own) if any(reads(defined[n], field) for n in used))


def field_names(recipe: ast.ClassDef) -> list[str]:
    """The annotated fields of a recipe class."""
    return [
        node.target.id
        for node in recipe.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]


def reads(node: ast.AST, field: str) -> bool:
    """Whether code reads an attribute of this name."""
    return any(isinstance(n, ast.Attribute) and n.attr == field for n in ast.walk(node))


def imports_of(node: ast.stmt) -> list[Import]:
    """The names that an import statement binds; none for other statements."""
    if isinstance(node, ast.Import):
        return [Import(alias.name, None, alias.asname) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [Import(node.module or "", alias.name, alias.asname) for alias in node.names]
    return []
