"""How does a test get an etcd cluster? Members of its own on loopback, with TLS and users.

Started, frozen, killed and started again by pid. Judges nothing, and knows
nothing of the plugin.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import waiting

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Self

DEADLINE_S = 30.0
ROOT, PASSWORD = "root", "the root's"  # of clusters that live for a test
USER, USER_PASSWORD = "fleet", "the fleet's"
NAMESPACE = "fleet"
_HOST = "127.0.0.1"


class Tls:
    """An authority, and what it has signed: a server's pair, and a client's without a CN.

    With users, etcd's gateway refuses every client certificate that has one.
    """

    def __init__(self, directory: Path, host: str = _HOST) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self.ca = str(directory / "ca.pem")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        self._openssl(
            "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
            "-subj", "/CN=tests",
        )  # fmt: skip
        for name, subject in (("server", "/CN=etcd"), ("client", "/O=fleet")):
            request = ("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
            self._openssl("req", *curve, *request)
            (directory / "extensions").write_text(f"subjectAltName=IP:{host}\n")
            self._openssl(
                "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", "extensions",
            )  # fmt: skip
        self.cert, self.key = str(directory / "client.pem"), str(directory / "client.key")

    def _openssl(self, *words: str) -> None:
        subprocess.run(
            ["openssl", *words], cwd=self._directory, check=True, capture_output=True,
            timeout=DEADLINE_S,
        )  # fmt: skip

    def member_options(self) -> list[str]:
        server = [str(self._directory / f"server.{kind}") for kind in ("pem", "key")]
        return [
            *("--cert-file", server[0], "--key-file", server[1], "--client-cert-auth"),
            *("--trusted-ca-file", self.ca),
        ]

    def client_options(self) -> list[str]:
        return ["--cacert", self.ca, "--cert", self.cert, "--key", self.key]


class Member:
    """One etcd process; `url` is its clients'."""

    def __init__(self, name: str, directory: Path, host: str = _HOST) -> None:
        self.name = name
        self.directory = directory
        self.host = host
        self.port, self.peer_port = free_ports(host)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, options: list[str], prefix: tuple[str, ...] = ()) -> None:
        """Start it, the first time or again."""
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, "etcd", "--name", self.name, "--data-dir",
                 str(self.directory / self.name), "--log-level", "error", *options],
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
        self, directory: Path, members: int = 1, tls: Tls | None = None, *, auth: bool = False
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.tls = tls
        self.auth = auth
        self._guarded = False
        self._scheme = "https" if tls else "http"
        self.members = [Member(f"n{number}", directory) for number in range(members)]

    def __enter__(self) -> Self:
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

    def url(self, member: Member) -> str:
        return f"{self._scheme}://{member.host}:{member.port}"

    @property
    def endpoints(self) -> str:
        return ",".join(map(self.url, self.members))

    def config(self) -> dict[str, str]:
        """Return the plugin's table."""
        table = {"endpoints": self.endpoints, "namespace": NAMESPACE}
        if self.tls:
            table |= {"ca_cert": self.tls.ca, "cert": self.tls.cert, "key": self.tls.key}
        if self.auth:
            file = self.directory / "password"
            file.write_text(USER_PASSWORD + "\n")
            table |= {"username": USER, "password_file": str(file)}
        return table

    def start(self, member: Member) -> None:
        """Start one member, the first time or again."""
        peers = [f"{one.name}=http://{one.host}:{one.peer_port}" for one in self.members]
        own = f"http://{member.host}:{member.peer_port}"
        member.start([
            *("--listen-client-urls", self.url(member)),
            *("--advertise-client-urls", self.url(member)),
            *("--listen-peer-urls", own, "--initial-advertise-peer-urls", own),
            *("--initial-cluster", ",".join(peers)),
            *(self.tls.member_options() if self.tls else []),
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

    def etcdctl(self, *words: str) -> str:
        """Return what `etcdctl WORDS` prints; raises CalledProcessError."""
        user = ["--user", f"{ROOT}:{PASSWORD}"] if self._guarded else []
        tls = self.tls.client_options() if self.tls else []
        return subprocess.run(
            ["etcdctl", "--endpoints", self.endpoints, *tls, *user, *words],
            env={**os.environ, "ETCDCTL_API": "3"}, check=True, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=DEADLINE_S,
        ).stdout  # fmt: skip

    def _guard(self) -> None:
        """Have users: root, and the fleet's with the least that it needs."""
        self.etcdctl("user", "add", f"{ROOT}:{PASSWORD}")
        self.etcdctl("user", "grant-role", ROOT, "root")
        self.etcdctl("role", "add", USER)
        prefix = f"/lsup/v1/{NAMESPACE}/"
        self.etcdctl("role", "grant-permission", USER, "--prefix=true", "readwrite", prefix)
        self.etcdctl("user", "add", f"{USER}:{USER_PASSWORD}")
        self.etcdctl("user", "grant-role", USER, USER)
        self.etcdctl("auth", "enable")
        self._guarded = True


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
