"""By which name do all hosts know a disk? Paths differ between hosts, identities do not.

An identity that the user gives; a device's WWN or device mapper uuid; a
network disk's canonical URI; else the host's own name with the path, which
excludes guests of this one host. It must not know how names become keys.
"""

from __future__ import annotations

import os
import stat
from urllib.parse import urlsplit, urlunsplit

from lockplugins.contract import ResourceError, cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lockplugins.contract import Resource

NETWORK = ("rbd:", "nbd:", "iscsi:")
_SYS = "/sys/dev/block"


def of(resource: Resource) -> str:
    """Return the disk's name; raises ResourceError when it cannot be looked at."""
    if resource.identity:
        return f"id:{resource.identity}"
    if resource.path.startswith(NETWORK):
        return _canonical(resource.path)
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


def _canonical(uri: str) -> str:
    """Return a network disk's URI as all would write it: no credentials, no options, low case."""
    if uri.startswith("rbd:"):  # rbd:pool/image[@snapshot][:option=value…]
        return ":".join(uri.split(":")[:2])
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise ResourceError("lease", f"disk {uri}", f"{error}", "is that its URI?") from error
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    netloc = f"{host}:{port}" if port else host
    return urlunsplit((parts.scheme.lower(), netloc, parts.path, "", ""))
