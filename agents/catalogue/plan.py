"""What replacing one part of a program takes: worked out on plain syntax trees, before any edit."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from nightlab.agents.catalogue.source import (
    PARTS,
    Import,
    Variant,
    field_names,
    imports_of,
    reads,
    variants,
)
from nightlab.agents.catalogue.syntax import names_loaded, normal, parse


@dataclass(frozen=True, kw_only=True)
class Outline:
    """The top level of one file."""

    tree: ast.Module
    definitions: Mapping[str, ast.ClassDef | ast.FunctionDef]
    imports: Mapping[str, Import]
    """By the name that they bind."""
    bound: frozenset[str]
    """Every name the file binds at its top level."""
    fields: tuple[str, ...]
    """The recipe's fields."""
    numbers: Mapping[str, float | int]
    """Those with a plain number as their default."""


@lru_cache(maxsize=512)
def outline(text: str) -> Outline | None:
    """A file's outline, or None where it is not Python."""
    tree = parse(text)
    if tree is None:
        return None
    definitions = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    imports = {each.bound: each for node in tree.body for each in imports_of(node)}
    recipe = definitions.get("Recipe")
    assigned = {
        n.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for n in ast.walk(node)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    return Outline(
        tree=tree,
        definitions=definitions,
        imports=imports,
        bound=frozenset({*definitions, *imports, *assigned}),
        fields=tuple(field_names(recipe)) if isinstance(recipe, ast.ClassDef) else (),
        numbers=_numbers(recipe) if isinstance(recipe, ast.ClassDef) else {},
    )


def _numbers(recipe: ast.ClassDef) -> dict[str, float | int]:
    found: dict[str, float | int] = {}
    for node in recipe.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[node.target.id] = value
    return found


@lru_cache(maxsize=4096)
def holds(text: str, variant: Variant) -> bool:
    """Whether the file's part already is this variant."""
    own = outline(text)
    if own is None or PARTS[variant.part] not in own.definitions:
        return False
    wanted = {PARTS[variant.part]: variant.normal, **variant.companions_normal}
    return all(
        name in own.definitions and _normal_definition(text, name) == tree
        for name, tree in wanted.items()
    )


@lru_cache(maxsize=4096)
def _normal_definition(text: str, name: str) -> str:
    own = outline(text)
    assert own is not None
    return normal(own.definitions[name])


def fits(text: str, variant: Variant) -> bool:
    """Whether the file has the part, and everything that the variant's code uses."""
    own = outline(text)
    if own is None or PARTS[variant.part] not in own.definitions:
        return False
    if not variant.needs <= own.bound:
        return False
    clash = (i for i in variant.imports if i.bound in own.bound and own.imports.get(i.bound) != i)
    return not any(clash) and not (variant.fields and not own.fields)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The edits that replace one part."""

    drop: frozenset[str]
    """Definitions to remove, apart from the part itself."""
    drop_imports: frozenset[str]
    """Names that only the part's other variants import, and that nothing reads any more."""
    add_imports: tuple[Import, ...]
    drop_fields: frozenset[str]
    add_fields: tuple[str, ...]


def plan(text: str, variant: Variant) -> Plan:
    """What to remove and add around the part: no leftover of the old variant, nothing missing."""
    own = outline(text)
    assert own is not None
    others = [each for each in variants().values() if each.part == variant.part]
    drop = set(variant.companions)
    kept = [n for n in own.tree.body if _name(n) not in {*drop, PARTS[variant.part]}]
    kept += _code(variant)
    removable = {name for each in others for name in each.companions} - drop
    while stale := {n for n in removable if n in map(_name, kept)} - _read(kept):
        kept = [node for node in kept if _name(node) not in stale]
        drop |= stale
    home = next(each.file for each in others if each.is_baseline)
    beside = [v for v in variants().values() if v.is_baseline and v.file == home]
    baseline = {each.bound for v in beside for each in v.imports}
    extra = {each.bound for other in others for each in other.imports} - baseline
    fields = {field for other in others for field in other.fields}
    return Plan(
        drop=frozenset(drop),
        drop_imports=frozenset((extra & set(own.imports)) - _read(kept)),
        add_imports=tuple(each for each in variant.imports if each.bound not in own.imports),
        drop_fields=frozenset(
            f for f in fields & set(own.fields) if not any(reads(node, f) for node in kept)
        ),
        add_fields=tuple(field for field in variant.fields if field not in own.fields),
    )


def _name(node: ast.stmt) -> str:
    return node.name if isinstance(node, ast.ClassDef | ast.FunctionDef) else ""


def _read(nodes: list[ast.stmt]) -> set[str]:
    return {name for node in nodes for name in _names(node)}


@lru_cache(maxsize=8192)
def _names(node: ast.stmt) -> frozenset[str]:
    return frozenset(names_loaded(node) - {_name(node)})


@lru_cache(maxsize=256)
def _code(variant: Variant) -> tuple[ast.stmt, ...]:
    wanted = {variant.definition, *variant.companions}
    tree = parse(variant.file)
    assert tree is not None
    return tuple(node for node in tree.body if _name(node) in wanted)
