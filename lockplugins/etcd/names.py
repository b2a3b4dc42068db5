"""By which name do all hosts know a disk? Paths differ between hosts, identities do not.

An identity that the user gives; a device's WWN or device mapper uuid; a
network disk's canonical URI; else the host's own name with the path, which
excludes guests of this one host. It must not know how names become keys.
"""

from __future__ import annotations

import os
import re
import stat
from urllib.parse import parse_qs, quote, unquote, urlsplit

from lockplugins.contract import ResourceError, cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lockplugins.contract import Resource

_SYS = "/sys/dev/block"
_RBD = re.compile(r"rbd:((?:\\.|[^\\:])+)")  # the rest, behind a colon, are options
_OLD_NBD = re.compile(r"nbd:(?:unix:(/[^:]*)|(\[[^]]*\]|[^:/]+):(\d+))(?::exportname=(.*))?")
_SAME = {"iser": "iscsi", "nbds": "nbd"}  # another way to the same server
_PORTS = {
    "ftp": 21, "ftps": 990, "gluster": 24007, "http": 80, "https": 443, "iscsi": 3260,
    "nbd": 10809, "nfs": 2049, "sheepdog": 7000, "ssh": 22,
}  # fmt: skip
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")


def of(resource: Resource) -> str:
    """Return the disk's name; raises ResourceError when it cannot be looked at."""
    if resource.identity:
        return f"id:{resource.identity}"
    if not resource.path.startswith("/"):
        return _of_network(resource.path)
    path = os.path.realpath(resource.path)
    try:
        found = os.stat(path)
    except OSError as error:
        raise ResourceError("lease", f"disk {resource.path}", cause(error)) from error
    if stat.S_ISBLK(found.st_mode):
        device = f"{_SYS}/{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        if name := _of_device(device):
            return name
        return f"{_host()}:device:{os.path.basename(os.path.realpath(device))}"
    if not stat.S_ISREG(found.st_mode):
        why, advice = "it is neither a file nor a block device", "give its identity: ,id=IDENTITY"
        raise ResourceError("lease", f"disk {resource.path}", why, advice)
    return f"{_host()}:{path}"


def spans_hosts(name: str) -> bool:
    """Do other hosts know the disk by that name, too?"""
    return not name.startswith(f"{_host()}:")


def _host() -> str:
    return os.uname().nodename


def _of_device(device: str) -> str:
    """Return what a block device is called on every host, "" if nothing is known."""
    if uuid := _attribute(f"{device}/dm/uuid"):
        return f"dm:{uuid}"
    partition = _attribute(f"{device}/partition")
    disk = os.path.dirname(os.path.realpath(device)) if partition else device
    wwid = _attribute(f"{disk}/wwid") or _attribute(f"{disk}/device/wwid")
    if not wwid:
        return ""
    return f"wwid:{wwid}:part{partition}" if partition else f"wwid:{wwid}"


def _attribute(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return " ".join(file.read().split())
    except OSError:
        return ""


def _of_network(uri: str) -> str:
    """Return a network disk's name as all its spellings have it: no credentials, no options.

    A server of this very host, or on its sockets, is known to its guests alone.
    """
    if rbd := _RBD.match(uri):
        return f"rbd:{rbd[1]}"
    if old := _OLD_NBD.fullmatch(uri):
        path, host, port, export = old.groups()
        server = f"nbd+unix:///{{}}?socket={path}" if path else f"nbd://{host}:{port}/{{}}"
        uri = server.format(quote(export or ""))
    try:
        parts = urlsplit(uri)
        scheme, _, transport = parts.scheme.lower().partition("+")
        scheme = _SAME.get(scheme, scheme)
        port = parts.port or _PORTS[scheme]
        local = transport in {"unix", "vsock"}
        if not (local or parts.hostname):
            raise ValueError("it is no URI with a server")
    except (KeyError, ValueError) as error:
        why = "it is no URI that is known" if isinstance(error, KeyError) else f"{error}"
        raise ResourceError(
            "lease", f"disk {uri}", why, "give its identity: ,id=IDENTITY"
        ) from error
    path = unquote(parts.path).lstrip("/")
    if local:
        socket = "".join(parse_qs(parts.query).get("socket", [parts.netloc]))
        return f"{_host()}:{scheme}+{transport}:{socket}/{path}"
    host = str(parts.hostname)  # in low case
    if _LOOPBACK.fullmatch(host):
        return f"{_host()}:{scheme}:{port}/{path}"
    return f"{scheme}://{host}:{port}/{path}"
