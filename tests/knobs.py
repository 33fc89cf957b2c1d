"""Which keys of a configuration nothing reads: for the tests of every entry."""

import ast
from pathlib import Path


def unread_keys(owners: dict[str, type], source_root: Path) -> list[str]:
    """Dotted keys (with the dataclass that declares each: `config.keys`) that nothing under `source_root` reads as an attribute.

    A check in a `__post_init__` is no reading, nor is the body of the class itself.
    By name only: two dataclasses that share the name of a field share its readers.
    """
    schemas = {owner.__name__ for owner in owners.values()}
    reads: set[tuple[str, str]] = set()

    def visit(node: ast.AST, inside: str) -> None:
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__" and inside in schemas:
            return
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            reads.add((node.attr, inside))
        for child in ast.iter_child_nodes(node):
            visit(child, node.name if isinstance(node, ast.ClassDef) else inside)

    for source in source_root.rglob("*.py"):
        visit(ast.parse(source.read_text()), "")
    return [key for key, owner in owners.items() if not {place for name, place in reads if name == key.rpartition(".")[2]} - {owner.__name__}]
