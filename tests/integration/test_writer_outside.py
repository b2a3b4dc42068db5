"""Is a disk that another process writes to refused, and if not, is it said what that means?"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import insight, waiting
from tests.support.qemu import idle_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.command import Command

pytestmark = pytest.mark.slow

DEADLINE_S = 30
MEMORY = ["-m", "64", "-object", "memory-backend-memfd,id=m,size=64M,share=on"]
GUESTS = {
    "vhost-user-blk": (
        [*MEMORY, "-machine", "pc,memory-backend=m", "-chardev", "socket,id=c,path={}"],
        ["-device", "vhost-user-blk-pci,chardev=c"],
    ),
    "nbd": ([], ["-drive", "if=none,format=raw,file=nbd+unix:///e?socket={}"]),
}


@pytest.fixture(params=GUESTS)
def served(
    request: pytest.FixtureRequest, tmp_path: Path, require: Callable[[str], str]
) -> Iterator[tuple[str, list[str], str]]:
    """Serve an image; return it, a QEMU that uses it, and the argument that says so."""
    image, socket = tmp_path / "served.raw", tmp_path / "socket"
    image.write_bytes(bytes(1 << 20))
    export = {
        "vhost-user-blk": f"vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={socket}",
        "nbd": "nbd,id=e,node-name=f,name=e",
    }[request.param]
    argv = [require("qemu-storage-daemon"), "--blockdev", f"file,node-name=f,filename={image}"]
    if request.param == "nbd":
        argv += ["--nbd-server", f"addr.type=unix,addr.path={socket}"]
    server = subprocess.Popen([*argv, "--export", f"type={export},writable=on"])
    try:
        waiting.until(socket.exists, DEADLINE_S, "it listens")
        before, named = GUESTS[request.param]
        words = [word.format(socket) for word in (*before, *named)]
        yield str(image), idle_argv(machine="pc", extra=words), " ".join(words[-2:])
    finally:
        server.kill()
        server.wait(DEADLINE_S)


def test_a_disk_that_another_process_writes_to(
    command: Command, served: tuple[str, list[str], str]
) -> None:
    image, qemu, argument = served
    refused = command("run", "--name", "web1", "--", *qemu)
    assert refused.code == 2
    assert f"disks of {argument}: its writer is outside the guest, and goes on" in refused.err
    _, pid = command.guest("--name", "web1", "--disk", f"{image},shared", "--", *qemu)
    status = command.json("status", "web1")
    assert [lease["resource"] for lease in status["leases"]] == [image]
    assert status["guarantee"].startswith(f"weakened: writer outside the guest ({argument}); else ")
    (listed,) = command.json("list")
    assert listed["guarantee"] == status["guarantee"]
    # So no lease of the guest's can hold the writer back.
    assert image not in insight.links(pid).values()


def test_a_guest_that_writes_by_itself_has_the_whole_guarantee(
    command: Command, tmp_path: Path
) -> None:
    image = tmp_path / "own.raw"
    image.write_bytes(bytes(1 << 20))
    command.guest("--name", "web1", "--", *idle_argv(image))
    assert "outside" not in command.json("status", "web1")["guarantee"]
