"""Which QEMU command lines do tests and demo start?

The guest that writes without pause (tests/support/guest), and an idle QEMU that only holds
its images. Neither knows anything of the supervisor. QEMU's own image locks are off unless
asked for: they would pass the exclusion tests for us.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO, Any, Self

QEMU = "qemu-system-x86_64"
_CACHE = Path(__file__).parents[2] / ".cache" / "guest"
KERNEL = _CACHE / "vmlinuz"
INITRAMFS = _CACHE / "initramfs.cpio.gz"
WRITER = _CACHE / "writer"
# The kernel's self-tests and its defences take a fifth of the time to the first block. It
# gives up on a timer that is late, as it is on a busy machine: no_timer_check.
APPEND = "console=ttyS0 quiet panic=-1 no_timer_check cryptomgr.notests mitigations=off nokaslr"
# For both ends of a migration that have the guest's memory in one file (shared_memory).
STAYS_SHARED = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}
_READY = re.compile(rb"ready nonce=([0-9a-f]{16}) ")
_TROUBLE = re.compile(rb"(?:guest: cannot|Kernel panic)[^\r\n]*(?=\r?\n)")
_QCOW2_MAGIC = b"QFI\xfb"
_QMP_TIMEOUT_S = 30


class GuestError(Exception):
    """The guest did not begin to write."""


def _drive(image: str | os.PathLike[str], *, locking_off: bool, interface: str) -> list[str]:
    path = os.fspath(image)
    with open(path, "rb") as file:
        image_format = "qcow2" if file.read(4) == _QCOW2_MAGIC else "raw"
    # cache=unsafe: the guest's flushes reach the host's page cache, which outlives
    # QEMU, and do not wait for the host's disk.
    options = f"file={path.replace(',', ',,')},format={image_format},if={interface},cache=unsafe"
    return ["-drive", f"{options},file.locking=off" if locking_off else options]


def guest_argv(
    *images: str | os.PathLike[str],
    nonce: str | None = None,
    guest: str | None = None,
    count: int | None = None,
    locking_off: bool = True,
    serial: str = "stdio",
    extra: Sequence[str] = (),
) -> list[str]:
    """Return the command line of the guest that writes to `images` (vda, vdb …) without pause.

    `nonce` is 16 hexadecimal digits, new for every boot; random unless given.
    `guest` is a name of at most 16 ASCII letters that every block carries.
    After `count` blocks on each disk the guest is off; else it writes until
    it is killed, or its power button pressed. Hot-plugged virtio disks are
    written to as well. The images must exist.
    """
    for built in (KERNEL, INITRAMFS):
        if not built.exists():
            raise FileNotFoundError(f"cannot start the tests' guest: no {built}; run bin/setup")
    words = [APPEND]
    words += [f"nonce={nonce}"] if nonce is not None else []
    words += [f"guest={guest}"] if guest is not None else []
    words += [f"count={count}"] if count is not None else []
    argv = [QEMU, "-accel", "tcg", "-machine", "pc", "-m", "128"]
    argv += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", serial]
    argv += ["-kernel", str(KERNEL), "-initrd", str(INITRAMFS), "-append", " ".join(words)]
    for image in images:
        argv += _drive(image, locking_off=locking_off, interface="virtio")
    return [*argv, *extra]


def shared_memory(path: str | os.PathLike[str]) -> list[str]:
    """Return what has the guest's memory in a file, for both ends of a migration.

    Under TCG QEMU 7.2 loses pages when it copies the memory of a guest that runs: on a busy
    machine one migration in some dozens, and the guest's kernel crashes, supervised or not.
    """
    backend = f"memory-backend-file,id=ram,size=128M,share=on,mem-path={os.fspath(path)}"
    return ["-object", backend, "-machine", "memory-backend=ram"]


def idle_argv(
    *images: str | os.PathLike[str],
    machine: str = "none",
    locking_off: bool = True,
    extra: Sequence[str] = (),
) -> list[str]:
    """Return the command line of a QEMU that opens `images` and runs nothing.

    `machine` other than `none` takes devices, hot-plugged ones too.
    """
    argv = [QEMU, "-accel", "tcg", "-machine", machine, "-S", "-nodefaults", "-display", "none"]
    for image in images:
        argv += _drive(image, locking_off=locking_off, interface="none")
    return [*argv, *extra]


def wait_ready(serial: IO[bytes], disks: int = 1, deadline_s: float = 30) -> str:
    """Return the nonce of a guest once it has written to `disks` of its disks.

    `serial` is the reading end of its serial console: QEMU's standard output,
    unbuffered, or a FIFO. The rest of it may be left unread: the guest says
    little. Raises GuestError with what the guest said instead.
    """
    said = b""
    end = time.monotonic() + deadline_s
    fd = serial.fileno()
    while len(ready := _READY.findall(said)) < disks:
        if trouble := _TROUBLE.search(said):
            raise GuestError(trouble[0].decode(errors="replace"))
        if not select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
            raise GuestError(f"not ready after {deadline_s} s; its console says {said[-500:]!r}")
        if not (chunk := os.read(fd, 4096)):
            raise GuestError(f"ended before it was ready; its console says {said[-500:]!r}")
        said += chunk
    nonce: bytes = ready[0]
    return nonce.decode()


class Monitor:
    """A QMP connection to one QEMU: start it with `argv` added and `fd` passed on."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.settimeout(_QMP_TIMEOUT_S)
        self.fd = self._theirs.fileno()
        self.argv = [
            "-chardev",
            f"socket,id=test,fd={self.fd}",
            "-mon",
            "chardev=test,mode=control",
        ]
        self._lines: IO[str] | None = None
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines:
            self._lines.close()
        self._ours.close()
        self._theirs.close()

    def execute(self, command: str, **arguments: object) -> object:
        """Return what `command` returns. Raises GuestError with QEMU's reason."""
        if not self._lines:
            self._theirs.close()
            self._lines = self._ours.makefile()
            self._next()  # the greeting
            self.execute("qmp_capabilities")
        self._send(command, arguments)
        while "event" in (answer := self._next()):
            self._events.append(answer)
        if "error" in answer:
            raise GuestError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def send(self, command: str) -> None:
        """Ask, once something has been asked, and do not wait: nothing else can be asked then."""
        self._send(command, {})

    def _send(self, command: str, arguments: dict[str, object]) -> None:
        request = {"execute": command, "arguments": arguments}
        self._ours.sendall(json.dumps(request).encode() + b"\n")

    def wait_event(self, name: str, **data: object) -> dict[str, Any]:
        """Return the first event `name` with `data` that no earlier call waited for."""
        while True:
            for event in self._events:
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    self._events.remove(event)
                    return event
            self._events.append(self._next())

    def _next(self) -> Any:
        assert self._lines
        if not (line := self._lines.readline()):
            raise GuestError("QEMU ended")
        return json.loads(line)
