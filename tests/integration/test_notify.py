"""Is the service manager told once that the guest runs, and by whom?"""

from __future__ import annotations

import select
import socket
import struct
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.support import insight, prefixes
from tests.support.guard import DEADLINE_S
from tests.support.launcher import Launcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.guard import Guards

UCRED = struct.Struct("3i")


@pytest.fixture(params=["path", "abstract", "no UTF-8"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Give a datagram socket as systemd's, and what NOTIFY_SOCKET says of it (latin-1)."""
    address = {
        "path": f"{tmp_path}/notify",
        "abstract": f"\0{tmp_path}",
        "no UTF-8": f"{tmp_path}/n\xff\xfe",
    }[request.param]
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(address.encode("latin-1"))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listener.settimeout(DEADLINE_S)
        yield listener, address.replace("\0", "@")


@pytest.mark.parametrize("way", prefixes.WAYS)
def test_the_service_manager_is_told_once_by_the_guard(
    guards: Guards, manager: tuple[socket.socket, str], way: str
) -> None:
    listener, address = manager
    launcher = Launcher(env=[f"NOTIFY_SOCKET={address}"])
    guard = prefixes.idling(guards, way, launcher)
    message, ancillary, _flags, _address = listener.recvmsg(4096, socket.CMSG_SPACE(UCRED.size))
    assert message == f"READY=1\nMAINPID={guard.pid}".encode()
    assert UCRED.unpack(ancillary[0][2])[0] == guard.pid
    environ = insight.read(guard.child_pid, "environ")
    assert environ == f"NOTIFY_SOCKET={address}\0".encode("latin-1")
    guard.kill()
    assert not select.select([listener], [], [], 0)[0]


def test_the_service_manager_hears_nothing_of_a_guest_that_never_ran(
    guards: Guards, manager: tuple[socket.socket, str]
) -> None:
    listener, address = manager
    launcher = Launcher(env=[f"NOTIFY_SOCKET={address}"])
    assert prefixes.start(guards, "pdeathsig", ["/nowhere"], launcher=launcher).wait().code == 127
    assert not select.select([listener], [], [], 0)[0]


@pytest.mark.parametrize("address", ["/nowhere/notify", "", "relative", "@", "/" + "x" * 200])
def test_a_service_manager_that_cannot_be_told_does_no_harm(guards: Guards, address: str) -> None:
    launcher = Launcher(env=[f"NOTIFY_SOCKET={address}"])
    command = ["/bin/busybox", "sh", "-c", "exit 9"]
    assert prefixes.start(guards, "pdeathsig", command, launcher=launcher).wait().code == 9


def test_a_service_manager_that_does_not_read_holds_nothing_up(
    guards: Guards, manager: tuple[socket.socket, str]
) -> None:
    listener, address = manager
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
        sender.setblocking(False)
        sender.connect(listener.getsockname())
        while select.select([], [sender], [], 0)[1]:
            sender.send(b"x")
        launcher = Launcher(env=[f"NOTIFY_SOCKET={address}"])
        command = ["/bin/busybox", "sh", "-c", "exit 4"]
        assert prefixes.start(guards, "pdeathsig", command, launcher=launcher).wait().code == 4
