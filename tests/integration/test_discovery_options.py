"""Does QEMU cut its command line where we cut it, and print its lists where we expect no guest?"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from supervisor.discovery.disks import passes_through
from supervisor.discovery.options import ALONE, WITH_VALUE
from tests.support.qemu import QEMU

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 30
# Options that QEMU had before 7.2 or has since.
OF_OTHER_VERSIONS = {"enable-hax", "jitdump", "perfmap", "run-with", "shim", "watchdog"}

# QEMU prints these and exits.
HELP = """
-help
-version
-hda raw.img -h
-machine help
-M q35,help
-M ?
-cpu help
-accel help
-device help
-device virtio-blk-pci,?
-object help
-object iothread,id=x,help
-chardev help
-netdev help
-nic model=help
-net nic,model=help
-audiodev help
-display help
-vga help
-d help
-trace help
-tpmdev help
"""


@pytest.mark.parametrize("name", sorted(WITH_VALUE | ALONE))
def test_qemu_agrees_which_options_take_a_value(name: str, require: Callable[[str], str]) -> None:
    """QEMU complains of the first word that it cannot place: our two, which are no options."""
    argv = [require(QEMU), f"-{name}", "-not-one", "-not-two"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    first = said.stderr.partition(": ")[2].partition(": invalid option")[0]
    if first in {f"-{name}", f"--{name}"}:
        assert name in OF_OTHER_VERSIONS
    else:
        assert first == ("-not-two" if name in WITH_VALUE else "-not-one")


@pytest.mark.parametrize("line", HELP.strip().splitlines())
def test_a_command_line_that_passes_through_starts_no_guest(
    line: str, require: Callable[[str], str]
) -> None:
    argv = [require(QEMU), *line.split()]
    assert passes_through(argv)
    done = subprocess.run(
        [*argv, "-display", "none"], capture_output=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode in {0, 1}  # 1 where QEMU has no better manners
    assert done.stdout + done.stderr
