"""Does docs/etcd.md lead from nothing to a guest? Its commands as they stand, on its three hosts.

Each host is a network namespace with the page's address: members look whether a
peer's certificate is of the address that it comes from.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.command import PROGRAM
from tests.support.sources import read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOOLS = ("etcd", "etcdctl", "openssl", "unshare", "ip")
APART = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
OURS = "10.0.0.254/24"
DEADLINE_S = 120
GUEST = 'etcdctl --user "fleet1:$(cat password)" get --prefix --keys-only /lsup/v1/fleet1/'

pytestmark = pytest.mark.usefixtures("as_root")


def test_its_commands_lead_from_nothing_to_a_guest(
    require: Callable[[str], str], tmp_path: Path
) -> None:
    for tool in TOOLS:
        require(tool)
    (config,) = re.findall(r"```toml\n(.*?)```", read("docs/etcd.md"), re.DOTALL)
    (tmp_path / "config.toml").write_text(config.replace("/etc/lock-supervisor", str(tmp_path)))
    (tmp_path / "disk").touch()
    done = subprocess.run(
        [*APART, "sh", "-euc", script(tmp_path)], cwd=tmp_path, check=False, text=True,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S,
        env=os.environ | {"ETCDCTL_DIAL_TIMEOUT": "30s", "ETCDCTL_COMMAND_TIMEOUT": "30s"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    keys = re.findall(r"^/lsup/v1/fleet1/(\S+)$", done.stdout, re.MULTILINE)
    assert "disk/id:shared/w" in keys  # as the guest itself has seen it
    assert {key.partition("/")[0] for key in keys} == {"disk", "sess", "vm"}


def script(directory: Path) -> str:
    """Return the page's commands, one after the other, and a guest that looks at its leases."""
    blocks = re.findall(r"```sh\n(.*?)```", read("docs/etcd.md"), re.DOTALL)
    certificates, member, access, users = blocks[:4]
    servers = "".join(line for line in certificates.splitlines(keepends=True) if "server" in line)
    lines = ["ip link add lab type bridge", f"ip address add {OURS} dev lab", "ip link set lab up"]
    lines += [certificates, start(member, 1)]
    for number in (2, 3):
        lines += [servers.replace(ADDRESSES[0], ADDRESSES[number - 1]), start(member, number)]
    lines += ["openssl rand -hex 32 >root-password", "openssl rand -hex 32 >password"]
    lines += [access, "etcdctl get nothing", users]
    guest = f"--config config.toml --runtime-dir {directory} --disk disk,id=shared --name web1"
    lines += [f"{PROGRAM} run {guest} -- sh -c '{GUEST}'"]
    return "\n".join(lines)


def start(member: str, number: int) -> str:
    """Return the page's command for a member, on a host of its own, with files of its own."""
    address, cluster = ADDRESSES[number - 1], f"n1=https://{ADDRESSES[0]}:2380"
    command = member.replace(cluster, "CLUSTER").replace(ADDRESSES[0], address)
    command = command.replace("CLUSTER", cluster).replace("--name n1", f"--name n{number}")
    command = command.replace("/var/lib/etcd", "data").strip()
    host = f"""
        echo $$ >up; read -r go <go
        ip link set lo up; ip address add {address}/24 dev eth0; ip link set eth0 up
        exec {command}
    """
    return f"""
        mkdir n{number}; cp ca.pem server.pem server.key n{number}; mkfifo n{number}/up n{number}/go
        (cd n{number}; exec unshare --net sh -euc '{host}' >log 2>&1) &
        read -r host <n{number}/up
        ip link add v{number} type veth peer name eth0 netns "$host"
        ip link set v{number} master lab up; echo go >n{number}/go
    """
