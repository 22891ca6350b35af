"""Edits of a program's text on its concrete syntax tree: what is not edited keeps every character.

This module alone imports ``libcst``; the catalogue imports it only when something is applied.
"""

import sys
from collections.abc import Sequence
from functools import lru_cache

import libcst as cst
from libcst.helpers import get_full_name_for_node

from nightlab.agents.catalogue.plan import plan
from nightlab.agents.catalogue.source import PARTS, Import, Variant, variants

Line = cst.BaseStatement | cst.SimpleStatementLine
Body = list[Line]
Definition = cst.ClassDef | cst.FunctionDef
EXTRA = [field for variant in variants().values() for field in variant.fields]
"""The fields that variants add; kept in one order at the end of the recipe."""
GAP = [cst.EmptyLine(indent=False), cst.EmptyLine(indent=False)]


def set_dial(text: str, dial: str, value: str) -> str:
    """The text with another default for one field of its ``Recipe``."""
    module = _parsed(text)
    new = cst.parse_expression(value)
    lines = [
        line.with_deep_changes(line.body[0], value=new) if _field(line) == dial else line
        for line in _lines(module.body)
    ]
    return module.with_changes(body=_with_recipe(list(module.body), lines)).code


def set_part(text: str, variant: Variant) -> str:
    """The text with one part replaced, and with what the old part alone needed gone."""
    module, edits, own = _parsed(text), plan(text, variant), PARTS[variant.part]
    body: Body = []
    for node in module.body:
        if _name(node) == own:
            body += [_node(variant, name) for name in (*variant.companions, variant.definition)]
        elif _name(node) not in edits.drop:
            body.append(node)
    if edits.drop_imports:
        body = [kept for node in body if (kept := _without(node, edits.drop_imports)) is not None]
    for each in edits.add_imports:
        body = _with_import(body, each)
    if edits.drop_fields or edits.add_fields:
        lines = [line for line in _lines(body) if _field(line) not in edits.drop_fields]
        new = [
            line for line in _lines(_parsed(variant.file).body) if _field(line) in edits.add_fields
        ]
        extra = sorted((e for e in [*lines, *new] if _field(e) in EXTRA), key=_extra_rank)
        body = _with_recipe(body, [*(e for e in lines if _field(e) not in EXTRA), *extra])
    return module.with_changes(body=body).code


@lru_cache(maxsize=64)
def _parsed(text: str) -> cst.Module:
    return cst.parse_module(text)


@lru_cache(maxsize=256)
def _node(variant: Variant, name: str) -> Definition:
    """A definition of a catalogue file, under the name that it gets in a program."""
    node = next(n for n in _parsed(variant.file).body if _name(n) == name)
    own = PARTS[variant.part] if name == variant.definition else name
    renamed = node.visit(_Renamed(name, own))
    assert isinstance(renamed, Definition)
    return renamed.with_changes(leading_lines=GAP)


class _Renamed(cst.CSTTransformer):
    """One name for another, and docstrings down to their first paragraph."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.Name:  # noqa: N802
        same = original_node.value != self.old
        return updated_node if same else updated_node.with_changes(value=self.new)

    def leave_SimpleString(  # noqa: N802
        self, original_node: cst.SimpleString, updated_node: cst.SimpleString
    ) -> cst.SimpleString:
        first, rest, _ = original_node.value.partition("\n\n")
        return updated_node.with_changes(value=first + '"""') if rest else updated_node


def _name(node: Line) -> str:
    return node.name.value if isinstance(node, Definition) else ""


def _lines(body: Sequence[Line]) -> list[cst.SimpleStatementLine]:
    """The lines of the recipe's class body."""
    recipe = next(node for node in body if _name(node) == "Recipe")
    assert isinstance(recipe, cst.ClassDef)
    return list(recipe.body.body)  # type: ignore[arg-type]  # a recipe may hold methods as well


def _with_recipe(body: Body, lines: Sequence[cst.CSTNode]) -> Body:
    return [
        node.with_deep_changes(node.body, body=lines)
        if isinstance(node, cst.ClassDef) and _name(node) == "Recipe"
        else node
        for node in body
    ]


def _extra_rank(line: cst.CSTNode) -> int:
    return EXTRA.index(_field(line))


def _field(line: cst.CSTNode) -> str:
    """The name of the field that a line of the recipe declares."""
    if isinstance(line, cst.SimpleStatementLine) and isinstance(line.body[0], cst.AnnAssign):
        return get_full_name_for_node(line.body[0].target) or ""
    return ""


def _imported(node: cst.CSTNode) -> cst.Import | cst.ImportFrom | None:
    if isinstance(node, cst.SimpleStatementLine) and len(node.body) == 1:
        small = node.body[0]
        return small if isinstance(small, cst.Import | cst.ImportFrom) else None
    return None


def _with_import(body: Body, new: Import) -> Body:
    """Add one import: to a statement of the same module, or as a line where sorting puts it."""
    places = [index for index, node in enumerate(body) if _imported(node) is not None]
    for index in places:
        small = _imported(body[index])
        if new.name and isinstance(small, cst.ImportFrom) and _module(small) == new.module:
            line = body[index].with_changes(body=[_extended(small, new)])
            return [*body[:index], line, *body[index + 1 :]]
    line = cst.parse_statement(str(new))
    for index in places:
        if _rank(str(new)) < _rank(_text(body[index])):
            first = body[index]
            assert isinstance(first, cst.SimpleStatementLine)
            if _rank(_text(first))[0] == _rank(str(new))[0]:
                line = line.with_changes(leading_lines=first.leading_lines)
                first = first.with_changes(leading_lines=[])
            return [*body[:index], line, first, *body[index + 1 :]]
    at = places[-1] + 1 if places else 0
    return [*body[:at], line, *body[at:]]


def _rank(line: str) -> tuple[bool, bool, str]:
    """Where an import sorts: the standard library first, ``import`` before ``from``, by name."""
    words = line.split()
    third_party = words[1].split(".")[0] not in sys.stdlib_module_names
    return third_party, words[0] == "from", words[1]


def _text(node: cst.CSTNode) -> str:
    assert isinstance(node, cst.SimpleStatementLine)
    return cst.Module([node.with_changes(leading_lines=[])]).code


def _without(node: Line, names: frozenset[str]) -> Line | None:
    """An import without some of its names, None where nothing is left; others as they are."""
    small = _imported(node)
    if small is None or isinstance(small.names, cst.ImportStar):
        return node
    kept = [alias for alias in small.names if _bound(alias) not in names]
    if len(kept) == len(small.names) or not kept:
        return node if kept else None
    kept[-1] = kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
    return node.with_changes(body=[small.with_changes(names=kept)])


def _bound(alias: cst.ImportAlias) -> str:
    return alias.evaluated_alias or alias.evaluated_name.split(".")[0]


def _extended(small: cst.ImportFrom, new: Import) -> cst.ImportFrom:
    assert not isinstance(small.names, cst.ImportStar)
    alias = cst.AsName(cst.Name(new.alias)) if new.alias else None
    names = [*small.names, cst.ImportAlias(cst.Name(new.name or ""), alias)]
    names = [each.with_changes(comma=cst.MaybeSentinel.DEFAULT) for each in names]
    return small.with_changes(names=sorted(names, key=lambda each: each.evaluated_name))


def _module(small: cst.ImportFrom) -> str:
    if small.module is None or small.relative or isinstance(small.names, cst.ImportStar):
        return ""
    return get_full_name_for_node(small.module) or ""
