"""Programs as normalised syntax trees: what two texts must share to be the same program.

Comments, formatting, docstrings, unread imports, the names of a plain function's local variables
and the order of independent top-level definitions do not matter; every constant, name and
operation does.
"""

import ast
import hashlib
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache

from nightlab.vocabulary import Program

_PARSING = threading.Lock()


def read(text: str) -> ast.Module:
    """``ast.parse``, one thread at a time: CPython 3.11 counts the depth of the trees it builds
    in one place for all threads, and raises SystemError where two of them overlap.

    Raises what ``ast.parse`` raises.
    """
    with _PARSING:
        return ast.parse(text)


@lru_cache(maxsize=512)
def parse(text: str) -> ast.Module | None:
    """The syntax tree, or None where the text is not Python. To be read, never to be changed.

    Programs that share the text of a top-level statement share its node, so that what is worked
    out of a node once need not be worked out again for every program.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        tree = read(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    lines = text.split("\n")
    tree.body = [_shared("\n".join(lines[_first(n) - 1 : n.end_lineno])) or n for n in tree.body]
    return tree


@lru_cache(maxsize=4096)
def _shared(source: str) -> ast.stmt | None:
    """The node of a statement's own lines; None where it shares them with another."""
    try:
        (statement,) = read(source).body
    except (SyntaxError, ValueError):
        return None
    return statement


def _first(node: ast.stmt) -> int:
    """The statement's first line, decorators included."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(each.lineno for each in decorators)])


def tree_hash(program: Program) -> str:
    """Hash of the normalised syntax trees, 16 hex digits; finds duplicates that differ in text.

    A file that is not Python counts as its text.
    """
    digest = hashlib.sha256()
    for name in sorted(program.files):
        digest.update(f"{name}\0{_normal_file(program.files[name])}\0".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=512)
def _normal_file(text: str) -> str:
    tree = parse(text)
    if tree is None:
        return "text " + hashlib.sha256(text.encode()).hexdigest()
    read = {name for node in tree.body for name in names_loaded(node)} | _exported(tree)
    body = [one for each in _body(tree.body) for one in _split_import(each)]
    body = [statement for statement in body if not _unread(statement, read)]
    return "\n".join(normal(statement) for statement in _ordered(body))


@lru_cache(maxsize=4096)
def normal(node: ast.stmt, name: str | None = None) -> str:
    """One statement, normalised; ``name`` replaces the name of a definition throughout it."""
    fresh = read(ast.unparse(node)).body[0]
    if name is not None and isinstance(fresh, ast.ClassDef | ast.FunctionDef):
        _rename(fresh, {fresh.name: name})
        fresh.name = name
    for inner in ast.walk(fresh):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner.body = _body(inner.body)
        if isinstance(inner, ast.FunctionDef):
            names = _plain_locals(inner)
            for statement in inner.body:
                _rename(statement, names)
    return ast.dump(fresh)


@lru_cache(maxsize=4096)
def names_loaded(node: ast.AST) -> frozenset[str]:
    """Every plain name that is read anywhere below a node of a parsed program."""
    return _loaded(node)


def _loaded(node: ast.AST) -> frozenset[str]:
    return frozenset(
        inner.id
        for inner in ast.walk(node)
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load)
    )


def _body(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Statements without docstrings and other bare strings; never empty."""
    kept = [
        statement
        for statement in body
        if not (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        )
    ]
    return kept or [ast.Pass()]


def _rename(node: ast.AST, names: dict[str, str]) -> None:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and inner.id in names:
            inner.id = names[inner.id]


def _plain_locals(function: ast.FunctionDef) -> dict[str, str]:
    """New names for local variables, in order of first assignment.

    Only for functions where a name means one thing throughout: no nested scopes beyond
    comprehensions, no ``global``, no dynamic look-up, and parameters stay (callers name them).
    """
    inner = list(ast.walk(function))
    scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    odd = (ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom, ast.Try, ast.Match)
    if any(isinstance(n, scopes + odd) for n in inner if n is not function):
        return {}
    if _loaded(function) & {"locals", "vars", "eval", "exec", "dir"}:
        return {}
    kept = set(_comprehension_targets(inner)) | {n.arg for n in inner if isinstance(n, ast.arg)}
    kept |= {name for part in _load_time(function) for name in _loaded(part)}
    stored = [n.id for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    fresh = [name for name in dict.fromkeys(stored) if name not in kept]
    return {name: f"local {index}" for index, name in enumerate(fresh)}


def _comprehension_targets(nodes: Sequence[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.comprehension):
            yield from (n.id for n in ast.walk(node.target) if isinstance(n, ast.Name))


def _ordered(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """The statements with each run of independent definitions in an order of its own."""
    ordered: list[ast.stmt] = []
    run: list[ast.stmt] = []
    for statement in body:
        if _independent(statement):
            run.append(statement)
        else:
            ordered += [*_sorted_run(run), statement]
            run = []
    return ordered + _sorted_run(run)


@lru_cache(maxsize=4096)
def _split_import(statement: ast.stmt) -> Sequence[ast.stmt]:
    """An import of several names as several imports; any other statement as it is."""
    if isinstance(statement, ast.Import):
        return [ast.Import(names=[alias]) for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        module, level = statement.module, statement.level
        return [ast.ImportFrom(module, [alias], level) for alias in statement.names]
    return [statement]


def _exported(tree: ast.Module) -> set[str]:
    """Names that strings at the top level may hand on, such as ``__all__``."""
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) is str}


def _unread(statement: ast.stmt, read: set[str]) -> bool:
    """Whether a statement only imports a name that the file never reads."""
    if not isinstance(statement, ast.Import | ast.ImportFrom) or statement.names[0].name == "*":
        return False
    future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
    return not future and _bound(statement) not in read


def _independent(statement: ast.stmt) -> bool:
    """Whether executing the statement only binds its own name: it calls nothing at load time."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return statement.names[0].name != "*"
    if not isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return False
    calls = (n for part in _load_time(statement) for n in ast.walk(part))
    return all(
        not isinstance(n, ast.Call) or ast.unparse(n.func) in ("dataclass", "field") for n in calls
    )


def _load_time(node: ast.stmt) -> Iterator[ast.AST]:
    """What a definition evaluates when it is executed, as opposed to when it is used."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from node.decorator_list
        yield node.args
        if node.returns is not None:
            yield node.returns
    elif isinstance(node, ast.ClassDef):
        yield from (*node.decorator_list, *node.bases, *node.keywords)
        for statement in node.body:
            yield from _load_time(statement)
    else:
        yield node


def _bound(statement: ast.stmt) -> str:
    if isinstance(statement, ast.Import | ast.ImportFrom):
        alias = statement.names[0]
        return alias.asname or alias.name.split(".")[0]
    assert isinstance(statement, ast.ClassDef | ast.FunctionDef)
    return statement.name


def _sorted_run(run: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Topological order by load-time dependence, ties by text; as given where that is unsafe."""
    names = [_bound(statement) for statement in run]
    if len(set(names)) < len(names):
        return list(run)
    place = {name: index for index, name in enumerate(names)}
    needs = {
        index: {
            place[name]
            for part in _load_time(statement)
            for name in names_loaded(part)
            if name in place and place[name] != index
        }
        for index, statement in enumerate(run)
        if not isinstance(statement, ast.Import | ast.ImportFrom)
    }
    if any(need > index for index, wants in needs.items() for need in wants):
        return list(run)
    texts = [normal(statement) for statement in run]
    waiting, ordered = set(range(len(run))), list[int]()
    while waiting:
        ready = [i for i in waiting if not needs.get(i, set()) & waiting]
        ordered.append(min(ready, key=lambda i: texts[i]))
        waiting.remove(ordered[-1])
    return [run[index] for index in ordered]
