"""Is libvirt's connection to virtlockd found among our descriptors, and every one left alone?"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from supervisor.discovery import lockd
from tests.support import proclocks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def connected(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """Give a test a connection to a socket of this name, or of virtlockd's."""
    path = str(tmp_path / getattr(request, "param", "virtlockd-sock"))
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        client.connect(path)
        yield client


def test_the_connection_is_found_and_stays_open(connected: socket.socket) -> None:
    path = connected.getpeername()
    assert lockd.connection() == (connected.fileno(), path)
    assert lockd.connection() == (connected.fileno(), path)


@pytest.mark.parametrize("connected", ["virtlogd-sock", "virtlockd-sock.old"], indirect=True)
def test_another_daemons_socket_is_none(connected: socket.socket) -> None:
    assert lockd.connection() is None
    assert connected.getpeername()


@pytest.mark.usefixtures("connected")
def test_looking_drops_no_posix_lock(tmp_path: Path) -> None:
    with open(tmp_path / "web1.pid", "w", encoding="ascii") as pidfile:
        # As libvirt has one on its pid file.
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        fcntl.fcntl(pidfile, fcntl.F_SETLK, lock)
        assert lockd.connection() is not None
        assert [lock.kind for lock in proclocks.locks(pidfile.name)] == ["POSIX"]
