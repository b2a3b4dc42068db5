"""Where can the product say "cannot …", and which words of each line are always the same?

Reads the source. A site is a call that makes an error (its class, or a function that returns
one), a text that begins with "cannot", or what click is told is wrong with an option. It must not
know how a line is provoked.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from tests.support.sources import Source, read, sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HOLE = "(.*?)"  # what is known at run time alone

_CANNOT = "cannot "
_FIELDS = ("verb", "name", "reason", "advice")
# A line says what it cannot do to what; "cannot be opened: …" and "cannot tell: …" are clauses.
_LINE = re.compile(re.escape(re.escape(_CANNOT)) + r"(?!be\\ )[^:]*?\\ .*:")
_USAGE = re.escape(f"{_CANNOT}understand the command line: ") + HOLE
_USAGE_CLASSES = ("BadParameter", "UsageError")
_PASSING = ("shown", "str")  # calls that leave a text what it is


Made = dict[str, "Maker"]  # by full name, a class's also by its own


@dataclass(frozen=True)
class Site:
    """One place that can say a line; `where` is module:function, `pattern` a regular expression."""

    where: str
    line_number: int
    pattern: str

    def fits(self, line: str) -> int:
        """Return how many characters of `line` are this site's own words, -1 if it is not its."""
        match = re.fullmatch(self.pattern, line, re.DOTALL)
        return -1 if match is None else len(line) - sum(map(len, filter(None, match.groups())))

    @property
    def text(self) -> str:
        """Return the line, with … for what is known at run time alone."""
        return re.sub(
            r"\\(.)", r"\1", self.pattern.replace(f"(?:;\\ {HOLE})?", "").replace(HOLE, "…")
        )

    def __str__(self) -> str:
        return f"{self.where} (line {self.line_number}): {self.text}"


@dataclass(frozen=True)
class Scope:
    """What the names of one place stand for: expressions, or a pattern where one is known."""

    texts: Mapping[str, Sequence[ast.expr]]
    patterns: Mapping[str, str] = field(default_factory=dict)

    def pattern(self, node: ast.expr | None) -> str:  # noqa: PLR0911  # one a kind of expression
        """Return the regular expression of all that an expression may be as text."""
        match node:
            case None:
                return ""
            case ast.Constant(value=str(text)):
                return re.escape(text)
            case ast.JoinedStr(values=parts):
                return "".join(map(self.pattern, parts))
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return self.pattern(left) + self.pattern(right)
            case ast.IfExp(body=body, orelse=orelse):
                return _either([self.pattern(body), self.pattern(orelse)])
            case ast.Name(id=name) if name in self.patterns:
                return self.patterns[name]
            case ast.Name(id=name) if name in self.texts:
                others = {other: t for other, t in self.texts.items() if other != name}
                inner = Scope(others, self.patterns)
                return _either([inner.pattern(text) for text in self.texts[name]])
            case ast.FormattedValue(value=value, format_spec=None):
                return self.pattern(value)
            case ast.Call(func=ast.Name(id=name), args=[value]) if name in _PASSING:
                return self.pattern(value)
            case _:
                return HOLE


@dataclass(frozen=True)
class Maker:
    """A class or function that makes an error out of its parameters."""

    parameters: Sequence[str]
    defaults: Mapping[str, ast.expr]
    fields: Sequence[ast.expr | None]  # the error's, in words of the parameters
    scope: Scope

    def line(self, call: ast.Call, scope: Scope) -> str:
        """Return the pattern of the line that this call makes."""
        given = {name: scope.pattern(value) for name, value in self.arguments(call).items()}
        inner = Scope(self.scope.texts, given)
        verb, name, reason, advice = map(inner.pattern, self.fields)
        line = f"{re.escape(_CANNOT)}{verb}\\ {name}:\\ {reason}"
        if not advice:
            return line
        optional = re.fullmatch(advice, "")
        return f"{line}(?:;\\ {advice})?" if optional else f"{line};\\ {advice}"

    def arguments(self, call: ast.Call) -> dict[str, ast.expr]:
        """Return what each parameter is given, defaults included."""
        named = {word.arg: word.value for word in call.keywords if word.arg is not None}
        return {**self.defaults, **dict(zip(self.parameters, call.args, strict=False)), **named}


def sites() -> list[Site]:
    """Return every place of the product that can say a line of its own."""
    command = Source("bin/lock-supervisor", read("bin/lock-supervisor"))
    return sites_in([*sources("supervisor", "lockplugins"), command])


def sites_in(product: Sequence[Source]) -> list[Site]:
    """Return the sites of these sources, in their order."""
    makers = _makers(product)
    return [site for source in product for site in _sites_of(source, makers)]


def _sites_of(source: Source, makers: Made) -> list[Site]:
    def walk(node: ast.AST, function: str, scope: Scope) -> Iterator[Site]:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if f"{source.module}.{node.name}" in makers:
                return  # its callers are the sites
            function = f"{function}.{node.name}".lstrip(".")
            scope = Scope({**scope.texts, **_texts(node.body), **_parameters(node)})
        elif isinstance(node, ast.Call | ast.Constant | ast.JoinedStr):
            pattern = _said(node, scope, source, makers)
            if pattern:
                yield Site(f"{source.module}:{function}", node.lineno, pattern)
                return
        for child in ast.iter_child_nodes(node):
            yield from walk(child, function, scope)

    return list(walk(source.tree, "", Scope(_texts(source.tree.body))))


def _said(node: ast.expr, scope: Scope, source: Source, makers: Made) -> str:
    """Return the pattern of the line that `node` says, "" if it says none."""
    if not isinstance(node, ast.Call):
        pattern = scope.pattern(node)
        return f"{pattern}(?:;\\ {HOLE})?" if _LINE.match(pattern) else ""
    if ast.unparse(node.func).rpartition(".")[2] in _USAGE_CLASSES:
        told = scope.pattern(node.args[0]).removesuffix(re.escape("."))
        return f"{_USAGE}{told}{HOLE}"
    maker = makers.get(_full_name(node.func, source))
    return maker.line(node, scope) if maker else ""


def _makers(product: Sequence[Source]) -> Made:
    """Return what makes errors: classes, and functions that return what another maker makes."""
    parts = [ast.Name(name) for name in _FIELDS]
    root = Maker(_FIELDS, {"advice": ast.Constant("")}, parts, Scope({}))
    makers = {"lockplugins.contract.LockError": root}
    defined = {
        f"{source.module}.{node.name}": (source, node)
        for source in product
        for node in source.tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    while True:
        more = {
            name: maker
            for name, (source, node) in defined.items()
            if name not in makers and (maker := _maker(source, node, makers)) is not None
        }
        if not more:
            return makers
        makers |= more


def _maker(source: Source, node: ast.ClassDef | ast.FunctionDef, makers: Made) -> Maker | None:
    """Return how `node` makes an error, None if it makes none (yet)."""
    function: ast.FunctionDef | None
    if isinstance(node, ast.FunctionDef):
        function = node
        returned = [n.value for n in ast.walk(node) if isinstance(n, ast.Return)]
        call = returned[0] if len(returned) == 1 else None
        parent = _called(call, source, makers)
    else:
        parent = next(filter(None, (makers.get(_full_name(b, source)) for b in node.bases)), None)
        methods = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        function = methods[0] if methods else None
        call = _call_of_super(function)
    if parent is None or function is None or not isinstance(call, ast.Call):
        return parent if isinstance(node, ast.ClassDef) else None
    given = parent.arguments(call)
    if ast.unparse(given["verb"]) == "''" if "verb" in given else False:
        return None  # it passes a line on that is somebody else's
    fields = [given.get(f.id, f) if isinstance(f, ast.Name) else f for f in parent.fields]
    parameters = [argument.arg for argument in function.args.args if argument.arg != "self"]
    defaults = function.args.defaults
    last = parameters[len(parameters) - len(defaults) :]
    scope = Scope(_texts([*source.tree.body, *function.body]))
    return Maker(parameters, dict(zip(last, defaults, strict=True)), fields, scope)


def _called(node: ast.expr | None, source: Source, makers: Made) -> Maker | None:
    return makers.get(_full_name(node.func, source)) if isinstance(node, ast.Call) else None


def _call_of_super(function: ast.FunctionDef | None) -> ast.Call | None:
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call)] if function else []
    return next((n for n in calls if ast.unparse(n.func) == "super().__init__"), None)


@cache
def _imported(source: Source) -> dict[str, str]:
    """Return the full names of what `source` imports by name."""
    return {
        alias.asname or alias.name: f"{statement.module}.{alias.name}"
        for statement in ast.walk(source.tree)
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


def _full_name(node: ast.expr, source: Source) -> str:
    """Return module.name of what `node` names in `source`."""
    prefix, _, name = ast.unparse(node).rpartition(".")
    imported = _imported(source)
    if prefix:
        return f"{imported.get(prefix, prefix)}.{name}"
    return imported.get(name, f"{source.module}.{name}")


def _texts(body: Sequence[ast.stmt]) -> dict[str, list[ast.expr]]:
    """Return what is assigned to each name by these statements, but not below functions in them."""
    found: dict[str, list[ast.expr]] = {}
    for name, value in _assignments(body):
        found.setdefault(name, []).append(value)
    return found


def _parameters(node: ast.FunctionDef | ast.ClassDef) -> dict[str, list[ast.expr]]:
    """Return a function's parameters, each with what else is assigned to it: never known."""
    if isinstance(node, ast.ClassDef):
        return {}
    assigned = _texts(node.body)
    anything = ast.Constant(None)
    return {a.arg: [anything, *assigned.get(a.arg, [])] for a in node.args.args}


def _assignments(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                pairs = [(target, statement.value)]
                if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
                    pairs = list(zip(target.elts, statement.value.elts, strict=True))
                yield from ((t.id, v) for t, v in pairs if isinstance(t, ast.Name))
        for below in ("body", "orelse", "finalbody"):
            yield from _assignments(getattr(statement, below, []))
        for handler in getattr(statement, "handlers", []):
            yield from _assignments(handler.body)


def _either(patterns: Sequence[str]) -> str:
    """Return the pattern of any of these; what has more words of its own is tried first."""
    several = sorted(set(patterns), key=len, reverse=True)
    return several[0] if len(several) == 1 else f"(?:{'|'.join(several)})"
