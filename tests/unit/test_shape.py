"""Is every part small enough to be read at once, and is everything where it belongs?"""

from __future__ import annotations

import ast
import os

import pytest

from tests.support.sources import CHECKOUT, LATE_PARTS, files, read, sources

FILE_LINES = 300
FUNCTION_LINES = 50
TRUSTED_BASE_LINES = 1500  # loaded when a guest runs (README, D10)
LATE_LINES = 950  # loaded when a client asks, or for some guests

TOP_LEVEL = {
    "pyproject.toml", "README.md", "LICENSE", "supervisor", "lockplugins", "bin", "tests", "docs",
}  # fmt: skip
BUILT = {"build", "dist", "__pycache__"}
BIN = {"lock-supervisor", "setup", "demo", "test", "package"}
TESTS = {
    "conftest.py", "unit", "conformance", "integration", "faults", "interop", "bench", "support",
}  # fmt: skip
SAYS_NOTHING = {"util", "utils", "helper", "helpers", "common", "misc"}


def test_no_file_is_longer_than_can_be_read_at_once() -> None:
    code = [path for path in files("supervisor", "lockplugins", "tests", "bin") if is_code(path)]
    sizes = {path: read(path).count("\n") for path in code}
    assert len(sizes) > 10
    assert {path: lines for path, lines in sizes.items() if lines > FILE_LINES} == {}


def is_code(path: str) -> bool:
    return path.endswith(".py") or os.access(os.path.join(CHECKOUT, path), os.X_OK)


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{source.path}:{node.lineno} {node.name}": lines
        for source in sources("supervisor", "lockplugins", "tests")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    }
    assert long == {}


@pytest.mark.parametrize(("late", "most"), [(False, TRUSTED_BASE_LINES), (True, LATE_LINES)])
def test_the_guard_stays_small(*, late: bool, most: int) -> None:
    sizes = {source.module: source.code_lines() for source in sources("supervisor/guard")}
    assert set(sizes) > LATE_PARTS
    counted = {module: lines for module, lines in sizes.items() if (module in LATE_PARTS) == late}
    listed = "\n".join(f"{lines:5} {module}" for module, lines in counted.items())
    assert sum(counted.values()) < most, listed


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {
        word.removesuffix(".py")
        for path in files("supervisor", "lockplugins", "tests")
        for word in path.split("/")
    }
    assert names & SAYS_NOTHING == set()


def test_the_top_level_holds_only_what_the_design_names() -> None:
    found = {name for name in os.listdir(CHECKOUT) if not name.startswith(".")}
    assert {name for name in found - TOP_LEVEL - BUILT if not name.endswith(".egg-info")} == set()


def test_bin_and_tests_hold_only_what_the_design_names() -> None:
    assert set(os.listdir(os.path.join(CHECKOUT, "bin"))) - BUILT <= BIN
    assert set(os.listdir(os.path.join(CHECKOUT, "tests"))) - BUILT <= TESTS
