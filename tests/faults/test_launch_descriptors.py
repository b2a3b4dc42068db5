"""Does a launch with odd descriptors keep the leases? Standard ones closed, named ones not open.

A QEMU whose standard input was closed once read its carrier as its console,
and so freed its own leases.
"""

from __future__ import annotations

import itertools
import os
import socket
from typing import TYPE_CHECKING

import pytest

from supervisor.spec import Containment
from tests.faults import firmware, processes
from tests.support.contender import Contender
from tests.support.launcher import Launcher

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.guard import Guards

pytestmark = pytest.mark.usefixtures("as_root")

DEADLINE_S = 20
STANDARD = (0, 1, 2)
CLOSED = [list(fds) for count in (1, 2, 3) for fds in itertools.combinations(STANDARD, count)]
NOT_OPEN = 77
NAMED = [
    ("-add-fd", f"fd={NOT_OPEN},set=1"),
    ("-chardev", f"socket,id=c,fd={NOT_OPEN}"),
    ("-netdev", f"tap,id=n,fd={NOT_OPEN}"),
    ("-netdev", f"tap,id=n,fds=0:{NOT_OPEN}"),
    ("-netdev", f"tap,id=n,fd=0,vhostfd={NOT_OPEN}"),
    ("-netdev", f'{{"type":"tap","id":"n","fd":"{NOT_OPEN}"}}'),
    ("-incoming", f"fd:{NOT_OPEN}"),
    ("-blockdev", f"driver=file,node-name=b,filename=/dev/fd/{NOT_OPEN}"),
    ("-drive", f"file=/proc/self/fd/{NOT_OPEN},format=raw"),
    ("-kernel", f"/dev/fd/{NOT_OPEN}"),
]


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return firmware.image(tmp_path / "disk")


@pytest.mark.parametrize("mode", [Containment.PDEATHSIG, Containment.PIDNS])
@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_a_guest_with_closed_standard_descriptors_keeps_its_lease(
    closed: list[int], mode: str, guards: Guards, disk: str
) -> None:
    command = firmware.argv(disk, extra=["-serial", "stdio"])
    spec = guards.spec(disk, containment=mode)
    guard = guards.start(spec, command, prefix=Launcher(closed=closed).prefix()).ready()
    with Contender(guard.child_pid, disk) as contender:
        # QEMU answers from the loop in which it reads its console: twice, so once more at least
        for _ in range(2):
            told = str(guard.status()["guarantee"])
            assert told.startswith("the guest runs only while every lease")
        assert not contender.has_won()
        processes.kill(guard.pid)
        for won in contender.won():
            assert not won.alive, f"{won.path} free, guest {won.alive}"


@pytest.mark.parametrize("words", NAMED, ids=" ".join)
def test_a_named_descriptor_that_is_not_open_is_refused_before_anything(
    words: tuple[str, str], guards: Guards, disk: str
) -> None:
    refusal = guards.refusal(disk, command=firmware.argv(disk, extra=words))
    assert refusal.code == 2
    assert words[1] in refusal.stderr
    assert f"descriptor {NOT_OPEN} is not open" in refusal.stderr
    assert not os.path.exists(guards.runtime_dir)


def test_a_named_descriptor_that_is_open_reaches_qemu(guards: Guards, disk: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = theirs.fileno()
        extra = ["-chardev", f"socket,id=c,fd={fd}", "-mon", "chardev=c,mode=control"]
        command = firmware.argv(disk, extra=extra)
        guards.start(guards.spec(disk), command, pass_fds=[fd]).ready()
        theirs.close()
        ours.settimeout(DEADLINE_S)
        assert ours.recv(1000).startswith(b'{"QMP"')
