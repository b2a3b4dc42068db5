"""What may every test ask for? Counts by the length of the run, and the tools of this machine.

Fixtures for single subjects live beside their tests, or in `tests/support`.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = [
    "tests.support.gate",
    "tests.support.guard",
    "tests.support.measured",
    "tests.support.moving",
    "tests.support.command",
    "tests.support.daemon",
    "tests.support.ends",
    "tests.support.detached",
    "tests.support.specifying",
    "tests.support.packages",
    "tests.support.libvirt",
    "tests.support.sanlock",
    "tests.support.etcd",
    "tests.support.etcd_ends",
    "tests.support.etcd_hosts",
]

_PYTHONS = (signal.SIGPIPE, signal.SIGXFSZ)  # ignored by Python itself
_TOOLS = ("qemu-system-x86_64", "libvirtd", "sanlock", "etcd")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lock-supervisor")
    group.addoption("--long", action="store_true", help="full durations and counts")
    group.addoption(
        "--strict-env", action="store_true", help="a missing tool fails the test, does not skip it"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Deadlines are the tests' own: a busy machine is no fault of the example.
    examples = 2000 if config.getoption("--long") else 100
    hypothesis.settings.register_profile("ours", deadline=None, max_examples=examples)
    hypothesis.settings.load_profile("ours")
    _take_signals_as_they_come()


def _take_signals_as_they_come() -> None:
    """Undo what nohup or a shell's & made of our own signals: the product hands it on."""
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN and number not in _PYTHONS:
            by_default = number != signal.SIGINT
            signal.signal(number, signal.SIG_DFL if by_default else signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def pytest_report_header() -> list[str]:
    machine = f"kernel {platform.release()}, python {platform.python_version()}"
    return [machine, *(f"{tool}: {_version(tool)}" for tool in _TOOLS)]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def rounds(pytestconfig: pytest.Config) -> Callable[[int, int], int]:
    """Choose a count: `rounds(default, long)`."""

    def chosen(default: int, long: int) -> int:
        return long if pytestconfig.getoption("--long") else default

    return chosen


@pytest.fixture(scope="session")
def require(pytestconfig: pytest.Config) -> Callable[[str], str]:
    """Return a tool's path: `require("etcd")`; missing it skips, or fails under --strict-env."""

    def found(tool: str) -> str:
        path = shutil.which(tool)
        if path is None:
            refuse = pytest.fail if pytestconfig.getoption("--strict-env") else pytest.skip
            refuse(f"{tool} is not installed; run bin/setup")
        return path

    return found


@pytest.fixture
def as_root(pytestconfig: pytest.Config) -> None:
    """Skip what only root can test, or fail under --strict-env."""
    if os.geteuid() != 0:
        refuse = pytest.fail if pytestconfig.getoption("--strict-env") else pytest.skip
        refuse("only root may; run the tests as root")


def _version(tool: str) -> str:
    try:
        result = subprocess.run(
            [tool, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except FileNotFoundError:
        return "not installed"
    lines = (result.stdout + result.stderr).strip().splitlines()
    return lines[0] if lines else f"exit {result.returncode}"
