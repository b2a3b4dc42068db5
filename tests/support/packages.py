"""How does a test get what bin/package builds, and a Debian without anything else on it?

Both are made once a session. Judges nothing.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.machine import Machine
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BUILD_S = 300.0
BOOTSTRAP_S = 900.0
# Where dpkg keeps its own books, and what it does not promise to leave as it was.
_BOOKS = ("/var/lib/dpkg", "/var/log", "/var/cache", "/proc", "/dev", "/sys", "/run", "/tmp")
_SET_UP = """\
mount --bind {root} {root}
mount --rbind /dev {root}/dev
mount -t proc proc {root}/proc
mount -t tmpfs tmpfs {root}/run
"""


@dataclass(frozen=True)
class Packages:
    """The files that bin/package has built."""

    wheel: str
    deb: str


def build(directory: Path) -> Packages:
    """Build both packages into `directory`."""
    argv = [f"{CHECKOUT}/bin/package", str(directory)]
    built = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_S, check=False)
    assert built.returncode == 0, built.stderr
    return Packages(*built.stdout.splitlines())


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def clean_root(
    tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], str]
) -> Iterator[str]:
    """Give a minimal Debian with what our package depends on, and not the package.

    Of the host's release, from where the host's own apt takes its packages.
    """
    root = str(tmp_path_factory.mktemp("clean-root", numbered=True))
    downloads = f"{CHECKOUT}/.cache/debs"
    os.makedirs(downloads, exist_ok=True)
    codename, mirror = _own_release()
    argv = [require("debootstrap"), "--variant=minbase", f"--cache-dir={downloads}"]
    argv += ["--include=python3,python3-click,python3-prctl", codename, root, mirror]
    made = subprocess.run(argv, capture_output=True, text=True, timeout=BOOTSTRAP_S, check=False)
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr
    os.chmod(root, 0o755)  # noqa: S103 - it has ordinary users, too
    yield root
    subprocess.run(["rm", "-rf", "--one-file-system", root], timeout=BUILD_S, check=True)


@pytest.fixture
def clean_machine(clean_root: str, require: Callable[[str], str]) -> Iterator[Machine]:
    """Give a machine whose root is the clean one; what is installed there is still there."""
    init = [require("tini"), "-s", "--", "sleep", "infinity"]
    with Machine(init, set_up=_SET_UP.format(root=clean_root), root=clean_root) as machine:
        yield machine


def _own_release() -> tuple[str, str]:
    """Return the host's release by its name, and its mirror."""
    with open("/etc/os-release", encoding="utf-8") as file:
        named = dict(line.strip().split("=", 1) for line in file if "=" in line)
    codename = named["VERSION_CODENAME"]
    listed = ["apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)"]
    targets = subprocess.run(listed, capture_output=True, text=True, timeout=60, check=True)
    for line in targets.stdout.splitlines():
        suite, component, uri = line.split(" ", 2)
        if (suite, component) == (codename, "main"):
            return codename, uri
    pytest.fail(f"apt has no source for {codename} main")


def files_of(machine: Machine) -> list[str]:
    """Return every file and directory of a clean machine, but for dpkg's books."""
    left_out = [word for path in _BOOKS for word in ("-path", path, "-prune", "-o")]
    return machine.ok("find", "/", *left_out, "-print").splitlines()
