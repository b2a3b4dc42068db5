"""What do most fault tests need? Root: namespaces, mounts, privileges to give away."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def as_root(pytestconfig: pytest.Config) -> None:
    """Skip what only root can test, or fail under --strict-env."""
    if os.geteuid() != 0:
        refuse = pytest.fail if pytestconfig.getoption("--strict-env") else pytest.skip
        refuse("only root may; run the tests as root")
