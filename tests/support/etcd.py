"""How does a test get an etcd cluster? Members of its own on loopback, with TLS and users.

Certificates and users are made by the commands of docs/etcd.md. Members are
started, frozen, killed and started again by pid. Judges nothing, and knows
nothing of the plugin.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import waiting
from tests.support.sources import read

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator
    from typing import Self

DEADLINE_S = 30.0
ROOT, PASSWORD = "root", "the-root's"  # of clusters that live for a test
USER, USER_PASSWORD = "fleet", "the-fleet's"
NAMESPACE = "fleet"
_HOST = "127.0.0.1"
_MEMORY, _ROOM_BYTES = "/dev/shm", 1 << 30


class Tls:
    """An authority, and what it has signed: a server's pair, and a client's without a CN."""

    def __init__(self, directory: Path, host: str = _HOST) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        do_as_told("openssl", directory, {"10.0.0.1": host})
        self.ca, self.cert, self.key = map(self._path, ("ca.pem", "client.pem", "client.key"))

    def _path(self, name: str) -> str:
        return str(self._directory / name)

    def sign_again(self, which: str, days: int) -> None:
        """Have a certificate (ca, server, client) that ends in so many days."""
        words = f"x509 -req -in {which}.csr -CA ca.pem -CAkey ca.key -extfile server.ext"
        if which == "ca":
            words = "req -x509 -key ca.key -subj /CN=fleet1"
        subprocess.run(
            ["openssl", *words.split(), "-days", str(days), "-out", f"{which}.pem"],
            cwd=self._directory, check=True, capture_output=True, timeout=DEADLINE_S,
        )  # fmt: skip

    def member_options(self) -> list[str]:
        pair = self._path("server.pem"), self._path("server.key")
        return [
            *("--cert-file", pair[0], "--key-file", pair[1]),
            *("--client-cert-auth", "--trusted-ca-file", self.ca),
            *("--peer-cert-file", pair[0], "--peer-key-file", pair[1]),
            *("--peer-client-cert-auth", "--peer-trusted-ca-file", self.ca),
        ]

    def client_env(self) -> dict[str, str]:
        return {"CACERT": self.ca, "CERT": self.cert, "KEY": self.key}


class Member:
    """One etcd process; `url` is its clients'."""

    def __init__(
        self, name: str, directory: Path, host: str = _HOST, ports: tuple[int, int] | None = None
    ) -> None:
        self.name = name
        self.directory = directory
        self.data = directory / name
        self.host = host
        self.port, self.peer_port = ports or free_ports(host)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, options: list[str], prefix: tuple[str, ...] = ()) -> None:
        """Start it, the first time or again."""
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, "etcd", "--name", self.name, "--data-dir", str(self.data),
                 "--log-level", "error", *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def send(self, number: signal.Signals) -> None:
        assert self.process, "it is not running"
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL it; returns when it is dead."""
        if self.process:
            self.process.kill()
            self.process.wait(DEADLINE_S)
        self.process = None


class Cluster:
    """`members` of one cluster; a context, healthy when entered, nothing of it left in the end.

    `tls`: clients need a certificate. `auth`: also user and password; `USER` may
    do what the plugin needs in `NAMESPACE`, and nothing else.
    """

    def __init__(
        self, directory: Path, members: int = 1, tls: Tls | None = None, *,
        auth: bool = False, on_disk: bool = False, host: str = _HOST,
    ) -> None:  # fmt: skip
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self._on_disk = on_disk
        self.tls = tls
        self.auth = auth
        self.options: list[str] = []  # more of them, for every member
        self._guarded = False
        self._data: tempfile.TemporaryDirectory[str] | None = None
        self._scheme = "https" if tls else "http"
        self.members = [Member(f"n{number}", directory, host) for number in range(members)]

    def __enter__(self) -> Self:
        # In memory where it can be: a disk that others keep busy for a second costs a proof.
        if not self._on_disk and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES:
            self._data = tempfile.TemporaryDirectory(prefix="etcd-", dir=_MEMORY)
            for member in self.members:
                member.data = Path(self._data.name) / member.name
        try:
            for member in self.members:
                self.start(member)
            waiting.until(self.is_healthy, DEADLINE_S, f"it is healthy: see {self.directory}/*.log")
            if self.auth:
                self._guard()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.kill()
        if self._data:
            self._data.cleanup()

    def url(self, member: Member) -> str:
        return f"{self._scheme}://{member.host}:{member.port}"

    def _peer_url(self, member: Member) -> str:
        return f"{self._scheme}://{member.host}:{member.peer_port}"

    @property
    def endpoints(self) -> str:
        return ",".join(map(self.url, self.members))

    def config(self) -> dict[str, str]:
        """Return the plugin's table."""
        table = {"endpoints": self.endpoints, "namespace": NAMESPACE}
        if self.tls:
            table |= {"ca_cert": self.tls.ca, "cert": self.tls.cert, "key": self.tls.key}
        if self.auth:
            table |= {"username": USER, "password_file": str(self.directory / "password")}
        return table

    def start(self, member: Member) -> None:
        """Start one member, the first time or again."""
        peers = [f"{one.name}={self._peer_url(one)}" for one in self.members]
        own = self._peer_url(member)
        member.start([
            *("--listen-client-urls", self.url(member)),
            *("--advertise-client-urls", self.url(member)),
            *("--listen-peer-urls", own, "--initial-advertise-peer-urls", own),
            *("--initial-cluster", ",".join(peers)),
            *(self.tls.member_options() if self.tls else []),
            *("--bcrypt-cost", "4"),
            *self.options,
        ])  # fmt: skip

    def leader(self) -> Member:
        """Return the member that leads now."""
        status = json.loads(self.etcdctl("endpoint", "status", "--write-out", "json"))
        for member, told in zip(self.members, status, strict=False):
            if told["Status"]["leader"] == told["Status"]["header"]["member_id"]:
                return member
        raise AssertionError(f"nobody leads: {status}")

    def is_healthy(self) -> bool:
        try:
            self.etcdctl("endpoint", "health")
        except subprocess.CalledProcessError:
            return False
        return True

    def kept(self, prefix: str = "/lsup/") -> dict[str, str]:
        """Return what is kept below `prefix`, as etcd's own tool reads it."""
        said = self.etcdctl("get", "--prefix", prefix, "--write-out", "fields")
        words = [line.partition(" : ")[::2] for line in said.splitlines()]
        named = [json.loads(value) for field, value in words if field == '"Key"']
        values = [json.loads(value) for field, value in words if field == '"Value"']
        return dict(zip(named, values, strict=True))

    def etcdctl(self, *words: str, user: str = f"{ROOT}:{PASSWORD}", told: str = "") -> str:
        """Return what `etcdctl WORDS` prints, `told` being its input; raises CalledProcessError."""
        return subprocess.run(
            ["etcdctl", *words], env=os.environ | self._env(user), check=True, capture_output=True,
            text=True, input=told, timeout=DEADLINE_S,
        ).stdout  # fmt: skip

    def _env(self, user: str = "") -> dict[str, str]:
        """Return what has etcdctl ask this cluster, as that user if it has users."""
        found = {"ENDPOINTS": self.endpoints} | (self.tls.client_env() if self.tls else {})
        found |= {"USER": user} if self._guarded else {}
        return {"ETCDCTL_API": "3"} | {f"ETCDCTL_{name}": value for name, value in found.items()}

    def _guard(self) -> None:
        """Have users: root, and the fleet's with the least that it needs."""
        for name, password in (("root-password", PASSWORD), ("password", USER_PASSWORD)):
            (self.directory / name).write_text(password + "\n")
        do_as_told("etcdctl", self.directory, {"fleet1": NAMESPACE}, self._env())
        self._guarded = True


def do_as_told(
    tool: str, directory: Path, ours: dict[str, str], env: dict[str, str] | None = None
) -> None:
    """Do in `directory` what docs/etcd.md has `tool` do, with our names in place of its."""
    blocks = re.findall(r"```sh\n(.*?)```", read("docs/etcd.md"), re.DOTALL)
    (script,) = (block for block in blocks if f"\n{tool} " in block)
    for name, own in ours.items():
        script = script.replace(name, own)
    subprocess.run(
        ["/bin/sh", "-euc", script], cwd=directory, env=os.environ | (env or {}), check=True,
        capture_output=True, stdin=subprocess.DEVNULL, timeout=DEADLINE_S,
    )  # fmt: skip


@pytest.fixture(scope="session")
def etcd_member(
    require: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Have a cluster of one member that nobody hurts; a test uses a namespace of its own."""
    require("etcd")
    with Cluster(tmp_path_factory.mktemp("etcd") / "one") as cluster:
        yield cluster


def free_ports(host: str = _HOST) -> tuple[int, int]:
    """Return two ports on which nobody listens, for now."""
    with socket.socket() as first, socket.socket() as second:
        for sock in (first, second):
            sock.bind((host, 0))
        return first.getsockname()[1], second.getsockname()[1]
