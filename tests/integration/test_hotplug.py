"""Do leases come before hot-plugged disks and go after them, with a real QEMU?"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import proclocks, waiting
from tests.support.qemu import idle_argv
from tests.support.wire import DEADLINE_S, Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.guard import Guard, Guards

ANSWER_S = 1.0
HELD = [("WRITE", 0, "0")]
LOCKING_OFF = {"locking": "off"}


class Machine:
    """A paused QEMU under a guard, with a QMP connection of our own beside the guard's."""

    def __init__(self, guards: Guards, disk: str, **fields: object) -> None:
        ours, qemus = socket.socketpair()
        fd = qemus.fileno()
        extra = ["-device", "qemu-xhci,id=usb"]
        extra += ["-chardev", f"socket,id=test,fd={fd}", "-mon", "chardev=test,mode=control"]
        command = idle_argv(disk, machine="pc", extra=extra)
        spec = guards.spec(disk, **fields)
        self.guard: Guard = guards.start(spec, command, pass_fds=[fd]).ready()
        qemus.close()
        self.qmp = Wire(ours)
        self.control = Wire(f"{self.guard.path}/control")

    def close(self) -> None:
        self.qmp.close()
        self.control.close()

    def attach(self, path: str, mode: str = "exclusive") -> Any:
        asked = {"type": "disk", "path": path, "mode": mode}
        return self.control.execute("acquire-resource", asked)

    def detach(self, path: str) -> Any:
        return self.control.execute("release-resource", {"type": "disk", "path": path})

    def refusal(self, path: str) -> Refused:
        """Ask for the release of `path`, which has to be refused with 111."""
        with pytest.raises(Refused) as refused:
            self.detach(path)
        assert refused.value.fields["exit_code"] == 111
        return refused.value

    def add_node(self, path: str) -> None:
        file = {"driver": "file", "filename": path} | LOCKING_OFF
        self.qmp.execute("blockdev-add", {"driver": "raw", "node-name": "hot", "file": file})

    def plug(self, path: str) -> None:
        self.add_node(path)
        self.qmp.execute(
            "device_add", {"driver": "usb-storage", "drive": "hot", "bus": "usb.0", "id": "stick"}
        )

    def unplug(self) -> None:
        self.qmp.execute("device_del", {"id": "stick"})
        while self.qmp.event("DEVICE_DELETED")["data"].get("device") != "stick":
            pass

    def del_node(self) -> None:
        self.qmp.execute("blockdev-del", {"node-name": "hot"})

    def status(self) -> Any:
        return self.control.execute("query-status")


def image(path: Path) -> str:
    path.write_bytes(bytes(1 << 20))
    return str(path)


@pytest.fixture
def boot(
    guards: Guards, tmp_path: Path, require: Callable[[str], str]
) -> Iterator[Callable[..., Machine]]:
    """Start a machine with one disk of its own."""
    require("qemu-system-x86_64")
    machines: list[Machine] = []

    def booted(**fields: object) -> Machine:
        machines.append(Machine(guards, image(tmp_path / "own"), **fields))
        return machines[-1]

    yield booted
    for machine in machines:
        machine.close()


@pytest.fixture
def machine(boot: Callable[..., Machine]) -> Machine:
    return boot()


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return image(tmp_path / "disk")


def test_the_lease_is_there_before_the_disk_and_goes_after_it(
    machine: Machine, guards: Guards, disk: str
) -> None:
    lease = machine.attach(disk)
    assert (lease["resource"], lease["mode"], lease["state"]) == (disk, "exclusive", "held")
    assert proclocks.bytes_locked(disk) == HELD
    machine.plug(disk)
    assert "QEMU has it open" in machine.refusal(disk).desc
    machine.unplug()
    assert "QEMU has it open" in machine.refusal(disk).desc
    machine.del_node()
    assert guards.refusal(disk).code == 110
    assert machine.detach(disk) == {}
    assert proclocks.locks(disk) == []
    guards.run(disk)


def test_a_node_without_a_device_keeps_the_lease(machine: Machine, disk: str) -> None:
    machine.attach(disk)
    machine.add_node(disk)
    machine.refusal(disk)
    machine.del_node()
    assert machine.detach(disk) == {}


@pytest.mark.parametrize("spelling", ["symlink", "hard link", "dots", "removed symlink"])
def test_a_node_under_another_name_keeps_the_lease(
    machine: Machine, disk: str, tmp_path: Path, spelling: str
) -> None:
    other = str(tmp_path / "other")
    match spelling:
        case "symlink" | "removed symlink":
            os.symlink(disk, other)
        case "hard link":
            os.link(disk, other)
        case _:
            other = f"{tmp_path}/../{tmp_path.name}//disk"
    machine.attach(disk)
    machine.add_node(other)
    if spelling.startswith("removed"):
        os.unlink(other)
    machine.refusal(disk)
    assert proclocks.bytes_locked(disk) == HELD
    machine.del_node()
    assert machine.detach(disk) == {}


def test_the_disk_of_the_command_line_is_not_released_while_it_is_open(machine: Machine) -> None:
    own = machine.guard.spec.resources[0].path
    machine.refusal(own)
    assert proclocks.bytes_locked(own) == HELD


def test_persistent_memory_is_not_released_while_it_is_mapped(
    guards: Guards, disk: str, require: Callable[[str], str]
) -> None:
    command = [require("qemu-system-x86_64"), "-accel", "tcg", "-machine", "q35,nvdimm=on", "-S"]
    command += ["-m", "64,slots=1,maxmem=1G", "-display", "none", "-nodefaults"]  # and no drive
    command += ["-object", f"memory-backend-file,id=m,mem-path={disk},size=1M,share=on"]
    guard = guards.run(disk, command=[*command, "-device", "nvdimm,memdev=m"])
    refused = pytest.raises(Refused, match="QEMU has it open")
    with Wire(f"{guard.path}/control") as control, refused:
        control.execute("release-resource", {"type": "disk", "path": disk})
    assert proclocks.bytes_locked(disk) == HELD


def test_what_another_guest_holds_is_not_attached(
    machine: Machine, guards: Guards, disk: str
) -> None:
    holder = guards.run(disk, name="db1")
    with pytest.raises(Refused) as refused:
        machine.attach(disk)
    assert (refused.value.wire_class, refused.value.fields["exit_code"]) == ("LeaseHeld", 110)
    words = f"held by guest db1 ({holder.spec.uuid}), supervisor pid {holder.pid}"
    assert words in refused.value.desc
    assert [lease["resource"] for lease in machine.status()["leases"]] != [disk]
    assert machine.control.events == []
    holder.kill()
    machine.attach(disk)


def test_hot_plugged_leases_end_with_the_guest(machine: Machine, guards: Guards, disk: str) -> None:
    machine.attach(disk)
    machine.plug(disk)
    waiter = guards.start(guards.spec(disk, wait_s=DEADLINE_S))
    signal.pidfd_send_signal(machine.guard.pidfd, signal.SIGKILL)
    waiter.ready()
    assert select.select([machine.guard.child_pidfd], [], [], 0)[0]


def test_a_snapshot_that_nobody_attached_is_named_and_weakens_the_guarantee(
    machine: Machine, tmp_path: Path
) -> None:
    assert machine.status()["unleased"] == []
    overlay = str(tmp_path / "overlay.qcow2")
    machine.qmp.execute(
        "blockdev-snapshot-sync", {"device": "none0", "snapshot-file": overlay, "format": "qcow2"}
    )
    status = machine.status()
    assert status["unleased"] == [overlay]
    assert status["guarantee"].startswith("weakened: 1 open without a lease")
    assert overlay in status["guarantee"]
    machine.attach(overlay)
    status = machine.status()
    assert status["unleased"] == []
    assert status["guarantee"].startswith("the guest runs only while every lease is held")


@pytest.mark.slow
def test_a_stopped_qemu_cannot_tell_and_nothing_is_released(machine: Machine, disk: str) -> None:
    machine.attach(disk)
    signal.pidfd_send_signal(machine.guard.child_pidfd, signal.SIGSTOP)
    try:
        start = time.monotonic()
        status = machine.status()
        assert time.monotonic() - start < ANSWER_S
        assert status["state"] == "running"
        assert status["guarantee"].startswith("weakened: ")
        assert machine.control.execute("query-child")["pid"] == machine.guard.child_pid
        number = machine.control.ask("release-resource", {"type": "disk", "path": disk})
        with Wire(f"{machine.guard.path}/control") as other:
            start = time.monotonic()
            assert other.execute("query-status")["state"] == "running"
            assert time.monotonic() - start < ANSWER_S
        with pytest.raises(Refused, match="QEMU did not answer") as refused:
            machine.control.answer(number)
        assert refused.value.wire_class == "LeaseUnknown"
        assert refused.value.fields["exit_code"] == 111
        assert proclocks.bytes_locked(disk) == HELD
    finally:
        signal.pidfd_send_signal(machine.guard.child_pidfd, signal.SIGCONT)
    waiting.until(
        lambda: not machine.status()["guarantee"].startswith("weakened: "),
        DEADLINE_S,
        "QEMU is looked at again",
    )
    assert machine.detach(disk) == {}


def test_without_a_monitor_the_callers_word_is_taken(
    boot: Callable[..., Machine], disk: str
) -> None:
    machine = boot(monitor=False)
    machine.attach(disk)
    machine.plug(disk)
    status = machine.status()
    assert status["unleased"] == []
    assert machine.detach(disk) == {}
    assert proclocks.locks(disk) == []
    assert machine.control.execute("stop-guest", {"timeout_s": 10})["via"] == "SIGTERM"
    assert machine.guard.wait().code == 0


def test_stop_presses_the_power_button(machine: Machine) -> None:
    assert machine.control.execute("stop-guest", {"timeout_s": 0.5})["via"] == "power button"
    machine.qmp.event("POWERDOWN")
    assert machine.guard.wait().code == 128 + signal.SIGKILL  # paused: nobody heeds the button


def test_a_hundred_attaches_leave_nothing_behind(machine: Machine, disk: str) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{machine.guard.pid}/fd"))

    machine.attach(disk)
    machine.detach(disk)
    before = descriptors()
    for number in range(100):
        machine.attach(disk, ("exclusive", "shared")[number % 2])
        machine.detach(disk)
    assert descriptors() == before
    assert proclocks.locks(disk) == []
