"""Does every module import only what it may, and do nothing when it is imported?

The arrows are the design's. A module or arrow that is not in the table is a
decision, to be written down before it is made here.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.support.sources import Import, Source, is_typing_block, sources

CONTRACT = "lockplugins.contract"
HANDOVER = "lockplugins.handover"
COMEBACK = "lockplugins.comeback"
CARRIER = "lockplugins.carrier"
EXITCODES = "supervisor.exitcodes"
REGISTRY = "lockplugins.registry"
LOADING = "lockplugins.loading"
SPEC = "supervisor.spec"
QMP = "supervisor.qmp"
RECORDS = "supervisor.records"

# Who may import whom. A part is a module, or a package with all below it; the longest name counts.
# Everyone may import itself and the contract; all of supervisor the exit codes and `supervisor`.
ARROWS: dict[str, set[str]] = {
    "supervisor": set(),
    "supervisor.cli": {
        "supervisor.discovery",
        "supervisor.doctor",
        "supervisor.specify",
        "supervisor.starting",
        "supervisor.orders",
        "supervisor.log",
        "supervisor.config",
        "supervisor.client",
        "supervisor.rundir",
        "supervisor.holders",
        "supervisor.finding",
        "supervisor.ending",
        SPEC,
        REGISTRY,
        LOADING,
    },
    "supervisor.discovery": set(),
    "supervisor.doctor": {"supervisor.discovery", SPEC, REGISTRY},
    # Run as a program of its own: what a guard would do, done by the guard's code.
    "supervisor.doctor.trial": {
        "supervisor.doctor",
        "supervisor.guard",
        "lockplugins.kernel_locks",
        SPEC,
        REGISTRY,
    },
    "supervisor.guard": {
        SPEC,
        QMP,
        "supervisor.rundir",
        "supervisor.holders",
        "supervisor.waiting_line",
        "supervisor.stillness",
        REGISTRY,
        HANDOVER,
        COMEBACK,
    },
    QMP: {"supervisor.rundir"},
    SPEC: set(),
    "supervisor.rundir": set(),
    RECORDS: {"supervisor.rundir"},
    "supervisor.client": {"supervisor.rundir", RECORDS},
    "supervisor.finding": {"supervisor.rundir", RECORDS, "supervisor.client"},
    "supervisor.ending": {
        "supervisor.rundir",
        "supervisor.client",
        "supervisor.finding",
        "supervisor.holders",
    },
    "supervisor.holders": {"supervisor.rundir", RECORDS},
    "supervisor.waiting_line": {"supervisor.holders"},
    "supervisor.stillness": set(),
    # What both a command line and a program's calls become: so neither has its own.
    "supervisor.specify": {
        "supervisor.discovery",
        "supervisor.config",
        "supervisor.parkable",
        SPEC,
        REGISTRY,
        LOADING,
    },
    "supervisor.parkable": {SPEC},
    "supervisor.starting": {"supervisor.log", SPEC},
    "supervisor.log": set(),
    "supervisor.config": {"supervisor.rundir", SPEC, REGISTRY, LOADING},
    # A program's calls are the commands' work, so they share what that is done with.
    "supervisor.manager": {
        "supervisor.client",
        "supervisor.rundir",
        "supervisor.config",
        "supervisor.finding",
        "supervisor.ending",
        "supervisor.specify",
        "supervisor.starting",
        "supervisor.parameters",
        "supervisor.getchild",
        "supervisor.whereabouts",
        "supervisor.orders",
        "supervisor.vocabulary",
        "supervisor.given",
        SPEC,
        "lockplugins",
        LOADING,
    },
    "supervisor.vocabulary": set(),
    "supervisor.given": {LOADING},
    "supervisor.whereabouts": {"supervisor.finding", RECORDS},
    "supervisor.orders": {"supervisor.client"},
    "supervisor.parameters": {
        "supervisor.given",
        "supervisor.specify",
        "supervisor.config",
        "supervisor.discovery",
        SPEC,
    },
    "supervisor.getchild": {"supervisor.client", "supervisor.finding"},
    "supervisor.domain_lock": {
        "supervisor.client",
        "supervisor.config",
        "supervisor.discovery",
        "supervisor.manager",
        "supervisor.given",
        "supervisor.orders",
        "supervisor.vocabulary",
        SPEC,
        LOADING,
    },
    EXITCODES: set(),
    "lockplugins": {LOADING},
    LOADING: {REGISTRY},
    CONTRACT: {HANDOVER, CARRIER},
    HANDOVER: set(),
    CARRIER: set(),
    COMEBACK: set(),
    REGISTRY: {HANDOVER, CARRIER, "lockplugins.file", "lockplugins.nop", "lockplugins.vm",
               "lockplugins.sanlock", "lockplugins.etcd"},
    # What plugins whose leases are kernel locks have in common: plugins may not import one another.
    "lockplugins.kernel_locks": set(),
    "lockplugins.file": {HANDOVER, "lockplugins.kernel_locks"},
    "lockplugins.nop": set(),
    "lockplugins.vm": {"lockplugins.kernel_locks"},
    "lockplugins.sanlock": {HANDOVER, "lockplugins.kernel_locks"},  # its list of mounts
    "lockplugins.etcd": {HANDOVER},
}  # fmt: skip

# What a module may not call while it is imported, unless it is the path arithmetic of os.path.
TOUCHING = ("open", "print", "os.", "subprocess.", "socket.", "_socket.", "fcntl.", "ctypes.",
            "prctl.", "threading.", "_thread.", "time.", "importlib.")  # fmt: skip
DEFINING = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.Pass)
PURE = ("os.path.", "os.fsencode", "os.fsdecode")


@pytest.fixture(scope="module")
def product() -> list[Source]:
    return sources("supervisor", "lockplugins")


@pytest.fixture(scope="module")
def imports(product: list[Source]) -> list[Import]:
    modules = {source.module for source in product}
    return [found for source in product for found in source.imports(modules)]


def part(module: str) -> str:
    """Return the entry of ARROWS that `module` belongs to."""
    if module in ARROWS:
        return module
    package = module.rpartition(".")[0]
    assert package not in ("", "supervisor", "lockplugins"), f"{module} is not in the design"
    return part(package)


def is_allowed(found: Import) -> bool:
    importer, imported = part(found.importer), part(found.imported)
    for_all = {importer, CONTRACT}
    if importer.startswith("supervisor"):
        for_all |= {EXITCODES, "supervisor"}
    return imported in ARROWS[importer] | for_all


def work_at_import(source: Source) -> list[str]:
    """Return what runs in `source` when it is imported, beyond defining names."""
    return [f"{source.path}:{node.lineno}" for node in source.tree.body if not only_defines(node)]


def only_defines(node: ast.stmt) -> bool:
    match node:
        case ast.Assign() | ast.AnnAssign():
            return not any(touches(call) for call in ast.walk(node))
        case ast.ClassDef(body=body):
            return all(only_defines(below) for below in body)
        case ast.If(test=test, orelse=orelse):
            is_main = ast.unparse(test) == "__name__ == '__main__'"
            return is_main or (is_typing_block(node) and all(map(only_defines, orelse)))
        case ast.Expr(value=value):
            return isinstance(value, ast.Constant)  # a docstring
        case _:
            return isinstance(node, DEFINING)


def touches(node: ast.AST) -> bool:
    """Tell whether `node` is a call that reaches outside the process's own values."""
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    return called.startswith(TOUCHING) and not called.startswith(PURE)


def test_every_import_follows_the_designs_arrows(imports: list[Import]) -> None:
    assert len(imports) > 50
    assert [f"{i.importer} -> {i.imported}" for i in imports if not is_allowed(i)] == []


def test_every_module_has_its_place_in_the_design(product: list[Source]) -> None:
    assert {part(source.module) for source in product} <= set(ARROWS)


def test_no_module_imports_itself_by_way_of_others(imports: list[Import]) -> None:
    graph: dict[str, set[str]] = {}
    for found in imports:
        if not found.typing_only and found.imported != found.importer:
            graph.setdefault(found.importer, set()).add(found.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_importing_a_module_does_no_work(product: list[Source]) -> None:
    run_directly = "/__main__.py"
    imported = [source for source in product if not source.path.endswith(run_directly)]
    assert [where for source in imported for where in work_at_import(source)] == []


def test_a_package_holds_only_its_docstring_and_public_names(product: list[Source]) -> None:
    packages = [source for source in product if source.path.endswith("/__init__.py")]
    assert {p.path for p in packages for node in p.tree.body if not only_names(node)} == set()


def only_names(node: ast.stmt) -> bool:
    """Is this a docstring, a public name, or what imports one when it is first used (PEP 562)?"""
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign)
    late = isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
    return late or is_typing_block(node) or isinstance(node, allowed)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("lockplugins.file.plugin", "supervisor.rundir"),
        ("supervisor.guard.loop", "supervisor.cli.main"),
        ("supervisor.guard.loop", "supervisor.discovery.images"),
        ("supervisor.guard.loop", "supervisor.manager"),
        ("lockplugins.sanlock.plugin", "lockplugins.file.names"),
        ("supervisor.rundir", "supervisor.spec"),
        ("supervisor.client", "supervisor.qmp.wire"),
    ],
)
def test_the_table_refuses_what_the_design_forbids(importer: str, imported: str) -> None:
    assert not is_allowed(Import(importer, imported, typing_only=True))


@pytest.mark.parametrize(
    "text",
    ["print('here')", "X = open('/etc/passwd')", "for a in b: pass", "class A:\n os.mkdir('x')"],
)
def test_work_at_import_is_seen(text: str) -> None:
    assert work_at_import(Source("x.py", text)) != []
