"""Is a guest that libvirt's lockd leases already refused before anything starts?

Here the launcher is this test; tests/interop has the real one.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support import proclocks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.command import Command


@pytest.fixture
def to_virtlockd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "virtlockd-sock"))
        listener.listen()
        client.connect(listener.getsockname())
        yield client


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    return str(path)


@pytest.mark.parametrize("plugin", ["file", "nop+file"])
def test_it_is_refused_in_one_line(
    command: Command, to_virtlockd: socket.socket, disk: str, tmp_path: Path, plugin: str
) -> None:
    fd = to_virtlockd.fileno()
    started = tmp_path / "started"
    words = ("run", "--name", "web1", "--plugin", plugin, "--disk", disk, "touch", str(started))
    refused = command(*words, pass_fds=[fd])
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        "lock-supervisor: cannot start guest web1: libvirt's own lock manager lockd is active for "
        f"it (descriptor {fd} is a connection to {to_virtlockd.getpeername()}) and would take the "
        "same lock; unset lock_manager in qemu.conf and restart libvirtd, or use --plugin nop\n"
    )
    assert not started.exists()
    assert proclocks.locks(disk) == []


def test_without_leases_of_ours_it_runs_with_the_connection(
    command: Command, to_virtlockd: socket.socket, disk: str
) -> None:
    fd = to_virtlockd.fileno()
    look = ("readlink", f"/proc/self/fd/{fd}")
    ran = command("run", "--plugin", "nop", "--disk", disk, *look, pass_fds=[fd])
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"socket:[{os.fstat(fd).st_ino}]\n"


def test_qemu_is_probed_all_the_same(command: Command, to_virtlockd: socket.socket) -> None:
    words = ("run", "--", "qemu-system-x86_64", "-machine", "none", "-version")
    probed = command(*words, pass_fds=[to_virtlockd.fileno()])
    assert (probed.code, probed.err) == (0, "")
    assert probed.out.startswith("QEMU emulator version ")
