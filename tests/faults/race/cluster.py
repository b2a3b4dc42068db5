"""Which etcd is raced over? Three members, each in a network of its own, with a log that freezes.

The last one is reached, by hosts and members alike, through a link that can be
slow. Asked by etcd's own gateway, not by the product's client. It must not know
who uses it.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.freezing import Filesystem, filesystem
from tests.support import waiting
from tests.support.etcd import Cluster, Member
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

    from tests.faults.race.network import Node

DEADLINE_S = 30.0
ANSWER_S = 2.0
QUOTA_BYTES = 16 << 20
_DIRECT, _PEERS, _SLOW, _SLOW_PEERS = 2379, 2380, 12379, 12380
_DISK_BYTES = 512 << 20  # etcd sets aside 64 MB at a time

Answer = dict[str, "Any"]


class AdminError(Exception):
    """A member has not done what was asked of it."""


class LabMember(Member):
    """One member; `port` is the one that others know."""

    def __init__(self, node: Node, directory: Path, disk: Filesystem, *, slow: bool) -> None:
        ports = (_SLOW, _SLOW_PEERS) if slow else (_DIRECT, _PEERS)
        super().__init__(node.name, directory, node.address, ports)
        self.node = node
        self.disk = disk

    def writes_to_its_disk(self) -> bool:
        """Is its log on the filesystem that can be frozen?"""
        assert self.process
        fds = Path(f"/proc/{self.process.pid}/fd")
        log = f"{self.disk.path}/wal/"
        return any(os.readlink(fd).startswith(log) for fd in fds.iterdir())

    def leads(self) -> bool:
        """Does it take itself for the leader?"""
        try:
            told = self.ask("maintenance/status", 0.5)
        except AdminError:
            return False
        return bool(told.get("leader") == told["header"]["member_id"])

    def ask(self, path: str, timeout_s: float = ANSWER_S, **message: object) -> Answer:
        """POST to the gateway, by the direct way; raises AdminError."""
        connection = http.client.HTTPConnection(self.host, _DIRECT, timeout=timeout_s)
        try:
            connection.request("POST", f"/v3/{path}", json.dumps(message))
            answer = connection.getresponse()
            found = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise AdminError(f"{self.name}: {error!r}") from error
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise AdminError(f"{self.name}: {found}")
        return dict(found)


class LabCluster(Cluster):
    """The members on `nodes`; a context."""

    members: list[LabMember]  # type: ignore[assignment]  # nobody adds others

    def __init__(self, directory: Path, nodes: Sequence[Node]) -> None:
        super().__init__(directory, 0, on_disk=True)
        self._stack = ExitStack()
        self._nodes = nodes

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in self._nodes:
                place = self.directory / node.name
                place.mkdir()
                disk = stack.enter_context(filesystem(place, size=_DISK_BYTES))
                slow = node is self._nodes[-1]
                self.members.append(LabMember(node, place, disk, slow=slow))
            self._link = self._start_link()
            stack.callback(self._link.kill)
            self._stack = stack.pop_all()
        super().__enter__()
        assert all(member.writes_to_its_disk() for member in self.members)
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.disk.thaw()
        super().__exit__()
        self._stack.close()

    def _start_link(self) -> subprocess.Popen[bytes]:
        ports = (f"{_SLOW}:{_DIRECT}", f"{_SLOW_PEERS}:{_PEERS}")
        node = self._nodes[-1]
        link = node.start(
            sys.executable, "-m", "tests.faults.race.slow", node.address, *ports,
            cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert link.stdout is not None
        waiting.readable(link.stdout.fileno(), DEADLINE_S, "the slow link is there")
        return link

    def delay(self, seconds: float) -> None:
        """Have what comes to the last member, and what it answers, arrive that much later."""
        assert self._link.stdin is not None
        self._link.stdin.write(f"{seconds}\n".encode())
        self._link.stdin.flush()

    def start(self, member: Member) -> None:
        assert isinstance(member, LabMember)
        url = f"http://{member.host}"
        others = [f"{one.name}=http://{one.host}:{one.peer_port}" for one in self.members]
        options = [
            *("--listen-client-urls", f"{url}:{_DIRECT}"),
            *("--advertise-client-urls", f"{url}:{member.port}"),
            *("--listen-peer-urls", f"{url}:{_PEERS}"),
            *("--initial-advertise-peer-urls", f"{url}:{member.peer_port}"),
            *("--initial-cluster", ",".join(others)),
            *("--wal-dir", f"{member.disk.path}/wal"),
            *("--quota-backend-bytes", str(QUOTA_BYTES)),
        ]
        member.start(options, tuple(member.node.argv()))

    def ask(self, path: str, **message: Any) -> Answer:
        """Ask the members in turn until one has done it; raises the last one's AdminError."""
        failure = AdminError("nobody was asked")
        for member in self.members:
            try:
                return member.ask(path, **message)
            except AdminError as error:
                failure = error
        raise failure

    def read(self, prefix: str) -> list[Answer]:
        """Return what is below `prefix`, in the order in which it was created."""
        answer = self.ask(
            "kv/range", key=encoded(prefix), range_end=encoded_end(prefix),
            sort_target="CREATE", sort_order="ASCEND",
        )  # fmt: skip
        return list(answer.get("kvs", ()))

    def leading(self) -> LabMember | None:
        """Return who takes itself for the leader, if it says so."""
        return next((member for member in self.members if member.leads()), None)

    def all_answer(self) -> bool:
        """Does every member answer what needs a quorum?"""
        try:
            for member in self.members:
                member.ask("kv/range", 1.0, key=encoded("x"))
        except AdminError:
            return False
        return True


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def decoded(text: str) -> str:
    return base64.b64decode(text).decode()


def encoded_end(prefix: str) -> str:
    raw = prefix.encode()
    return base64.b64encode(raw[:-1] + bytes([raw[-1] + 1])).decode()
