"""What a target of the fork looks like in its source: form, parameters, and a digest of its syntax tree.

Reads files and imports nothing of the fork, and nothing of this package either, so that another interpreter can run it
alone. It knows no hooks and judges nothing; `verify.py` does.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# Fields that say nothing about what the code does: where the parser keeps types, contexts and its own notes.
_IGNORED_FIELDS = frozenset(
    {"annotation", "returns", "type_params", "type_comment", "type_ignores", "ctx", "kind", "simple"}
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DOCUMENTED = (ast.Module, ast.ClassDef, *_FUNCTIONS)


class SourceError(Exception):
    """A module or a target is not where it was looked for, or its file is no Python; the message says which."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function: its name and `positional-only`, `positional-or-keyword`, `*args`, ... as kind."""

    name: str
    kind: str


@dataclass(frozen=True)
class Target:
    """A function, class or assignment of the fork, as its source has it."""

    place: str
    form: str
    """`function`, `async-function`, `property`, `class` or `assignment`."""
    parameters: tuple[Parameter, ...]
    digest: str
    """32 hexadecimal digits; the same under every supported Python, whatever the docstrings and annotations say."""


class Sources:
    """The modules of one package, each parsed at most once, and only if asked for.

    Args:
        package: the package's folder, such as `.../site-packages/omlx`.
    """

    def __init__(self, package: Path) -> None:
        self.package = package
        self._trees: dict[Path, ast.Module] = {}

    def file(self, module: str) -> Path:
        """The source file of `package.module`.

        Raises:
            SourceError: there is no such module in the package.
        """
        top, *parts = module.split(".")
        if top != self.package.name:
            raise SourceError(f"module {module} is not of the package {self.package.name}")
        folder = self.package.joinpath(*parts)
        for candidate in (folder / "__init__.py", folder.parent / f"{folder.name}.py"):
            if candidate.is_file():
                return candidate
        raise SourceError(f"module {module} is missing")

    def tree(self, path: Path) -> ast.Module:
        """The parsed file.

        Raises:
            SourceError: it cannot be read or is no Python that this interpreter knows.
        """
        if path not in self._trees:
            try:
                self._trees[path] = ast.parse(path.read_bytes(), str(path))
            except (OSError, SyntaxError, ValueError) as error:
                raise SourceError(f"{path} cannot be parsed: {error}") from error
        return self._trees[path]

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """Every Python file of the package, in a stable order."""
        return tuple(sorted(self.package.rglob("*.py")))

    def target(self, place: str) -> Target:
        """What stands at `package.module:Class.attribute` or `package.module:name`.

        Raises:
            SourceError: the module or the name is missing. A name that is only imported into the module does not count.
        """
        module, _, dotted = place.partition(":")
        body: list[ast.stmt] = self.tree(self.file(module)).body
        found: list[ast.stmt] = []
        names = dotted.split(".")
        for depth, name in enumerate(names):
            found = [node for node in _statements(body) if _defines(node, name)]
            if not found:
                owner = f"{module}:{'.'.join(names[:depth])}".rstrip(":")
                raise SourceError(f"{owner} has no {name}")
            if depth < len(names) - 1:
                if not isinstance(found[-1], ast.ClassDef):
                    raise SourceError(f"{module}:{'.'.join(names[: depth + 1])} is no class")
                body = found[-1].body
        last = found[-1]
        # All definitions count: of an if/else, or of a property and its setter, any may be the one in force.
        return Target(place, _form(last), _parameters(last), digest(found))

    def binds(self, place: str) -> bool:
        """Whether the module of `package.module:name` binds that name, by definition or by import.

        Raises:
            SourceError: the module is missing or cannot be parsed.
        """
        module, _, name = place.partition(":")
        return any(
            _defines(node, name) or _imports(node, name) for node in _statements(self.tree(self.file(module)).body)
        )


def digest(nodes: Iterable[ast.AST]) -> str:
    """BLAKE2b-128 over the canonical text of the nodes, as 32 hexadecimal digits."""
    text = "\n".join(canonical(node) for node in nodes)
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()


def canonical(node: ast.AST) -> str:
    """A text of the tree that is the same for code that does the same, under every supported Python.

    `ast.dump` will not do: it shows empty lists or not, and knows different fields, from one Python to the next.
    """
    if isinstance(node, ast.Constant):
        # ascii(), not repr(): which characters repr shows as they are depends on Python's Unicode tables.
        return f"{type(node.value).__name__}:{node.value!a}"
    if isinstance(node, ast.AnnAssign):
        return _written("Assign", [("targets", [node.target]), ("value", node.value)])
    if isinstance(node, ast.JoinedStr):
        return _written("JoinedStr", [("values", list(_joined(node.values)))])
    fields = []
    for name, value in ast.iter_fields(node):
        if name in _IGNORED_FIELDS:
            continue
        if name == "format_spec" and isinstance(value, ast.JoinedStr) and not list(_joined(value.values)):
            continue
        if name == "body" and isinstance(value, list):
            value = list(_meaningful(node, value))
        fields.append((name, value))
    return _written(type(node).__name__, fields)


def _written(name: str, fields: Iterable[tuple[str, object]]) -> str:
    parts = []
    for field, value in fields:
        # Left out, not written as empty: a newer Python's added fields are empty for older code.
        if value is None or (isinstance(value, list) and not value):
            continue
        parts.append(f"{field}={_value(value)}")
    return f"{name}({','.join(parts)})"


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{','.join(_value(item) for item in value)}]"
    return canonical(value) if isinstance(value, ast.AST) else ascii(value)


def _meaningful(owner: ast.AST, body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that do something: no docstring, no `pass`, no annotation without a value outside of a class."""
    for position, node in enumerate(body):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and type(node.value.value) is str
        if position == 0 and is_text and isinstance(owner, _DOCUMENTED):
            continue
        bare = isinstance(node, ast.AnnAssign) and node.value is None
        # In a class a bare annotation makes a dataclass field; elsewhere it does nothing.
        if isinstance(node, ast.Pass) or (bare and not isinstance(owner, ast.ClassDef)):
            continue
        yield node


def _joined(values: list[ast.expr]) -> Iterator[ast.expr]:
    """The parts of an f-string with neighbouring texts merged: parsers before Python 3.12 split otherwise."""
    text = ""
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            text += value.value
            continue
        if text:
            yield ast.Constant(text)
            text = ""
        yield value
    if text:
        yield ast.Constant(text)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or class, with those under `if`, `try` and `with`."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With | ast.TryStar):
            for name in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, name, []))
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)


def _defines(node: ast.stmt, name: str) -> bool:
    if isinstance(node, (ast.ClassDef, *_FUNCTIONS)):
        return node.name == name
    if isinstance(node, ast.AnnAssign):
        return node.value is not None and isinstance(node.target, ast.Name) and node.target.id == name
    if isinstance(node, ast.Assign):
        return any(isinstance(part, ast.Name) and part.id == name for each in node.targets for part in ast.walk(each))
    return False


def _imports(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.ImportFrom | ast.Import) and any(
        (alias.asname or alias.name) == name for alias in node.names
    )


def _form(node: ast.stmt) -> str:
    if isinstance(node, ast.ClassDef):
        return "class"
    if isinstance(node, _FUNCTIONS):
        decorators = {ast.unparse(each).rpartition(".")[2] for each in node.decorator_list}
        if decorators & {"property", "cached_property", "setter", "getter", "deleter"}:
            return "property"
        return "async-function" if isinstance(node, ast.AsyncFunctionDef) else "function"
    return "assignment"


def _parameters(node: ast.stmt) -> tuple[Parameter, ...]:
    """The parameters of a function, or of a class's own `__init__`."""
    if isinstance(node, ast.ClassDef):
        makers = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        return _parameters(makers[-1]) if makers else ()
    if not isinstance(node, _FUNCTIONS):
        return ()
    given = node.args
    return (
        *(Parameter(each.arg, "positional-only") for each in given.posonlyargs),
        *(Parameter(each.arg, "positional-or-keyword") for each in given.args),
        *([Parameter(given.vararg.arg, "*args")] if given.vararg else []),
        *(Parameter(each.arg, "keyword-only") for each in given.kwonlyargs),
        *([Parameter(given.kwarg.arg, "**kwargs")] if given.kwarg else []),
    )
