"""Which calls and attributes the fork uses on an object that a hook puts in place, read from its source.

It goes by the names under which the fork holds the object; an alias under another name is not seen.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence

from hwledger_omlx.fork.digest import Sources


def uses(sources: Sources, objects: Sequence[str]) -> Mapping[str, str]:
    """Attributes used on a variable or attribute with one of the names, each with the first place that uses it.

    `hasattr`, and `getattr` with a default, ask rather than rely, and so do not count.

    Args:
        sources: the fork's files; only those that contain one of the names are parsed.
        objects: names such as `paged_ssd_cache_manager`.

    Returns:
        attribute → `file:line`.
    """
    wanted = frozenset(objects)
    found: dict[str, str] = {}
    for path in sources.files:
        text = path.read_bytes()
        if not any(name.encode() in text for name in wanted):
            continue
        for attribute, line in _used(sources.tree(path), wanted):
            found.setdefault(attribute, f"{path.relative_to(sources.package.parent)}:{line}")
    return found


def _used(tree: ast.Module, objects: frozenset[str]) -> Iterator[tuple[str, int]]:
    asked = {id(node) for node in ast.walk(tree) if isinstance(node, ast.Call) and _asks(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _held(node.value, objects):
            yield node.attr, node.lineno
        elif isinstance(node, ast.Call) and id(node) not in asked and _reads_by_name(node):
            owner, name = node.args[0], node.args[1]
            if _held(owner, objects) and isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value, node.lineno


def _held(node: ast.expr, objects: frozenset[str]) -> bool:
    return (isinstance(node, ast.Name) and node.id in objects) or (
        isinstance(node, ast.Attribute) and node.attr in objects
    )


def _reads_by_name(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id in {"getattr", "setattr", "delattr"} and len(node.args) >= 2


def _asks(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and (
        node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3)
    )
