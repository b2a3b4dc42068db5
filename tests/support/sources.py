"""What does the project's source say of itself? Its files, their imports, their lines of code.

Reads and parses; imports nothing of the product and judges nothing.
"""

from __future__ import annotations

import ast
import io
import os
import tokenize
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# What of the guard is loaded only when a client asks for it, a migration is awaited, or the plugin
# registers the guest, or may lose its leases and is to park it.
LATE_PARTS = {
    f"supervisor.guard.{part}"
    for part in (
        "commands", "leasing", "parking", "resting", "migrating", "departing", "arriving",
        "registration", "guarantee",
    )
}  # fmt: skip
_NO_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


@dataclass(frozen=True)
class Import:
    """`importer` names the module `imported`; `typing_only` if no running program does."""

    importer: str
    imported: str
    typing_only: bool


@dataclass(frozen=True)
class Source:
    """One Python file; `path` is relative to the checkout."""

    path: str
    text: str

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    def code_lines(self) -> int:
        """Count the lines that are neither docstring nor comment nor blank."""
        lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in _NO_CODE:
                lines.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0] if node.body else None
                if first is not None and ast.get_docstring(node) is not None:
                    lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
        return len(lines)

    def imports(self, known: set[str]) -> list[Import]:
        """Return what the file imports of the modules `known`, late imports included."""
        return [
            Import(self.module, module, typing_only)
            for node, typing_only in _imports_below(self.tree, typing_only=False)
            for module in _modules_named(node, known)
        ]


def files(*tops: str) -> list[str]:
    """Return every file under the checkout's directories `tops`, bytecode left out."""
    return sorted(
        os.path.relpath(os.path.join(directory, name), CHECKOUT)
        for top in tops
        for directory, _, names in os.walk(os.path.join(CHECKOUT, top))
        for name in names
        if "__pycache__" not in directory
    )


def read(path: str) -> str:
    """Return the text of a file of the checkout."""
    with open(os.path.join(CHECKOUT, path), encoding="utf-8") as file:
        return file.read()


def sources(*tops: str) -> list[Source]:
    """Return the Python files under `tops`."""
    return [Source(path, read(path)) for path in files(*tops) if path.endswith(".py")]


def is_typing_block(node: ast.AST) -> bool:
    """Tell whether `node` is `if TYPE_CHECKING:`."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def _imports_below(
    node: ast.AST, *, typing_only: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, typing_only
        elif isinstance(child, ast.If) and is_typing_block(child):
            for statement in child.body:
                yield from _imports_below(ast.Module([statement], []), typing_only=True)
            for statement in child.orelse:
                yield from _imports_below(ast.Module([statement], []), typing_only=typing_only)
        else:
            yield from _imports_below(child, typing_only=typing_only)


def _modules_named(node: ast.Import | ast.ImportFrom, known: set[str]) -> Iterator[str]:
    """Yield the modules of `known`; `from a import b` means module `a.b` where there is one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
        return
    assert not node.level, f"line {node.lineno}: imports are absolute here"
    for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        if inner in known:
            yield inner
        elif node.module in known:
            yield str(node.module)
