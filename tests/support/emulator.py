"""How does a test run libvirt's domains under the supervisor? docs/libvirt-emulator, as it is.

Its runtime directory and its command are the test's. Asks libvirt by virsh,
ours by its command, and the kernel for locks. Judges nothing.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import proclocks, waiting
from tests.support.command import PROGRAM, Command, Started
from tests.support.domain import Disk, console, domain_xml
from tests.support.qemu import APPEND, wait_ready
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Any

    from tests.support.command import Result
    from tests.support.libvirt import Host

DEADLINE_S = 60.0
DISK_BYTES = 8 << 20
WRAPPER = Path(CHECKOUT) / "docs" / "libvirt-emulator"
RUNTIME_DIR = "/run/lock-supervisor-libvirt"
HELD = [("WRITE", 0, "0")]
_CALL = "exec lock-supervisor run "


class Emulated:
    """Domains of `host` under lock-supervisor; disks and all else are in `directory`.

    `program` is `lock-supervisor` as the domain finds it, `options` are more of
    run's.
    """

    def __init__(self, host: Host, directory: Path, *options: str, program: str = PROGRAM) -> None:
        self.host = host
        self.directory = directory
        self.runtime_dir = directory / "run"
        self.runtime_dir.mkdir(mode=0o700)
        self.command = Command(str(self.runtime_dir))
        text = WRAPPER.read_text()
        for given, ours in (
            (RUNTIME_DIR, str(self.runtime_dir)),
            (_CALL, " ".join(["exec", program, "run", *options, ""])),
        ):
            assert text.count(given) == 1
            text = text.replace(given, ours)
        self.wrapper = directory / "emulator"
        self.wrapper.write_text(text)
        self.wrapper.chmod(0o755)

    def disk(self, name: str = "disk.raw") -> str:
        path = self.directory / name
        path.touch()
        os.truncate(path, DISK_BYTES)
        return str(path)

    def define(self, name: str, *disks: Disk | str, writes_to: Path | None = None) -> None:
        wrapper = str(self.wrapper)
        self.host.define(domain_xml(name, *disks, emulator=wrapper, writes_to=writes_to))

    def start(self, name: str, *disks: Disk | str) -> None:
        """Start a domain that only holds its disks."""
        self.define(name, *disks)
        self.virsh("start", name)

    @contextmanager
    def writing(self, name: str, disk: str, count: int | None = None) -> Iterator[IO[bytes]]:
        """Start the domain that writes to `disk`, for ever or `count` blocks; gives its console."""
        path = self.directory / f"console.{name}"
        with console(path) as serial:
            wrapper = str(self.wrapper)
            xml = domain_xml(name, disk, emulator=wrapper, writes_to=path)
            more = "" if count is None else f" count={count}"
            self.host.define(xml.replace(APPEND, APPEND + more))
            self.virsh("start", name)
            yield serial
        path.unlink()

    def virsh(self, *args: str) -> str:
        """Return what virsh prints; it must succeed."""
        done = self.host.virsh(*args)
        assert done.code == 0, done
        return done.out

    def begin(self, *args: str) -> Started:
        """Start a virsh that takes its time; it is reaped with `command`."""
        virsh = self.host.enter(["virsh", "-q", "-c", "qemu:///system", *args])
        pipe = subprocess.PIPE
        started = subprocess.Popen(virsh, stdout=pipe, stderr=pipe, text=True)
        self.command.started.append(Started(started))
        return self.command.started[-1]

    def refused(self, *args: str) -> str:
        """Return our line in virsh's error."""
        done: Result = self.host.virsh(*args)
        assert done.code == 1, done
        lines = [line for line in done.err.split("\n") if "lock-supervisor: " in line]
        assert len(lines) == 1, done
        return lines[0].partition("lock-supervisor: ")[2]

    def until_off(self, name: str) -> str:
        """Wait until the domain is off; returns libvirt's reason."""
        what = f"{name} is off"
        waiting.until(lambda: self.host.state(name) == "shut off", DEADLINE_S, what)
        return self.reason(name)

    def reason(self, name: str) -> str:
        """Return libvirt's word for why the domain is in its state."""
        state = self.virsh("domstate", name, "--reason").strip()
        return state.partition("(")[2].rstrip(")")

    def status(self, name: str) -> Any:
        return self.command.json("status", name)

    def pids(self, name: str) -> tuple[int, int]:
        """Return the guard's pid and the guest's."""
        status = self.status(name)
        return status["supervisor_pid"], status["child_pid"]

    def leased(self, name: str) -> list[str]:
        return [lease["resource"] for lease in self.status(name)["leases"]]

    def disk_element(self, disk: str, kind: str = "file") -> str:
        """Write the XML that virsh attaches and detaches `disk` with; returns its path."""
        path = self.directory / "disk.xml"
        path.write_text(Disk(disk, kind).xml("vdb"))
        return str(path)


def held(disk: str) -> list[tuple[str, int, str]]:
    """Return the locks on the disk that are not QEMU's own."""
    return proclocks.below_qemus(disk)


def ready(serial: IO[bytes]) -> int:
    """Wait until the domain writes; returns the nonce of its boot."""
    return int(wait_ready(serial, deadline_s=DEADLINE_S), 16)


@contextmanager
def public_directory() -> Iterator[Path]:
    """Give a directory that every user may enter: pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="emulator-") as path:
        os.chmod(path, 0o711)  # noqa: S103  # as said
        yield Path(path)
