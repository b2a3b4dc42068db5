"""Does QEMU cut its command line where we cut it, and print its lists where we expect no guest?"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.discovery.disks import PERSISTENT_KEYS, PERSISTENT_MEMORY, passes_through
from supervisor.discovery.options import ALONE, WITH_VALUE
from tests.support.qemu import QEMU, Monitor, idle_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 30
# Options that QEMU had before 7.2 or has since.
OF_OTHER_VERSIONS = {"enable-hax", "jitdump", "perfmap", "run-with", "shim", "watchdog"}

# Whose memory ends with the guest, or is made for several.
VOLATILE = ("ivshmem-plain", "pc-dimm", "sgx-epc", "virtio-mem")
ENDS_QEMU = ("-gl", "virgl")  # asked for a module that is not installed

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


def test_every_property_by_which_a_device_names_a_disk_is_known(
    require: Callable[[str], str],
) -> None:
    require(QEMU)
    drives, memory = set(), set()
    for device, name, kind, description in properties():
        if "block device to use as a backend" in description:
            drives.add(name)
        volatile = device.startswith(VOLATILE) or name == "volatile-memdev"
        if kind.startswith("link<memory-backend") and not volatile:
            memory.add((device.startswith(PERSISTENT_MEMORY), name in PERSISTENT_KEYS))
    assert drives == {"drive"}
    assert memory == {(True, True)}


def properties() -> Iterator[tuple[str, str, str, str]]:
    """Yield QEMU's devices with the names, types and descriptions of their properties."""
    with Monitor() as monitor:
        argv = [*idle_argv(), *monitor.argv]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=[monitor.fd])
        try:
            types: Any = monitor.execute("qom-list-types", implements="device", abstract=False)
            for device in (found["name"] for found in types):
                if not any(word in device for word in ENDS_QEMU):
                    listed: Any = monitor.execute("device-list-properties", typename=device)
                    for found in listed:
                        yield device, found["name"], found["type"], found.get("description", "")
        finally:
            process.kill()
            process.wait(DEADLINE_S)
