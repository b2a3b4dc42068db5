"""Is what docs/disks.md says about QEMU's arguments so?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from supervisor.discovery.disks import DiscoveryError, discover
from tests.support import headers
from tests.support.sources import read

if TYPE_CHECKING:
    from pathlib import Path

NO_CONFIG = "/nonexistent/qemu.conf"
CODE = re.compile(r"`([^`]+)`")
LEASE = re.compile(r"`([^`]+)` (exclusive|shared)")
# In the documentation's words the option stands for others, too.
ALIKE = {"-hdd", "-fda", "-sd", "-mtdblock", "-pflash"}


def rows(mark: str) -> list[tuple[str, str]]:
    """Return a command line of the table below `mark`, and what the row says of it."""
    _, _, rest = read("docs/disks.md").partition(f"<!-- {mark}: tested -->\n")
    table, _, _ = rest.partition("\n\n")
    found = []
    for row in table.splitlines()[2:]:
        commands, says = row.strip("| ").rsplit(" | ", 1)
        found += [(line, says.strip()) for line in CODE.findall(commands)]
    return found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "base").write_bytes(headers.qcow2())
    (tmp_path / "top").write_bytes(headers.qcow2(b"base", "qcow2"))
    (tmp_path / "disk").write_bytes(bytes(4096))
    return tmp_path


@pytest.mark.parametrize(("line", "says"), rows("found"))
def test_what_is_found(images: Path, line: str, says: str) -> None:
    args = [line, "disk"] if line in ALIKE else line.split()
    found = discover(["qemu-kvm", *args], str(images), qemu_config=NO_CONFIG)
    expected = {} if says == "none" else dict(LEASE.findall(says))
    assert {disk.path.removeprefix(f"{images}/"): disk.mode for disk in found} == expected
    assert bool(expected) != (says == "none")


@pytest.mark.parametrize(("line", "says"), rows("refused"))
def test_what_is_refused(line: str, says: str) -> None:
    with pytest.raises(DiscoveryError, match=re.escape(says)):
        discover(["qemu-kvm", *line.split()], "/", qemu_config=NO_CONFIG)
