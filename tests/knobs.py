"""Which keys of a configuration nothing reads: for the tests of every entry."""

import ast
from pathlib import Path


def unread_keys(owners: dict[str, type], source_root: Path) -> list[str]:
    """Dotted keys (with the dataclass that declares each: `config.keys`) that nothing under `source_root` reads as an attribute.

    A check in a `__post_init__` is no reading; nor is the body of the class itself, but for a method that is read elsewhere.
    By name only: two dataclasses that share the name of a field share its readers.
    """
    schemas = {owner.__name__ for owner in owners.values()}
    reads: set[tuple[str, str, str]] = set()  # what, in which class, in which function

    def visit(node: ast.AST, inside: str, method: str) -> None:
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__" and inside in schemas:
            return
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            reads.add((node.attr, inside, method))
        within = node.name if isinstance(node, ast.FunctionDef) else method
        for child in ast.iter_child_nodes(node):
            visit(child, node.name if isinstance(node, ast.ClassDef) else inside, within)

    def is_read(name: str, owner: str) -> bool:
        return any(what == name and (inside != owner or is_called(method, owner)) for what, inside, method in reads)

    def is_called(method: str, owner: str) -> bool:
        return any(what == method and inside != owner for what, inside, _ in reads)

    for source in source_root.rglob("*.py"):
        visit(ast.parse(source.read_text()), "", "")
    return [key for key, owner in owners.items() if not is_read(key.rpartition(".")[2], owner.__name__)]
