"""What does a libvirt domain XML say of a guest: its names, its disks, its explicit leases?

Reads what `virsh dumpxml` prints. It must not know lock managers.
"""

from __future__ import annotations

import os
import re
import stat

from lockplugins.contract import Mode, Resource, ResourceType, cause
from supervisor.discovery.disk import strongest
from supervisor.discovery.domain_disks import found_disks
from supervisor.discovery.errors import DiscoveryError
from supervisor.discovery.images import opened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from xml.etree.ElementTree import Element

    from supervisor.discovery.disk import Disk

LONGEST = 4 << 20  # bytes, as many as libvirt itself takes from a client

_ENCODING = r"""\ufeff?<\?xml[^>]*\sencoding\s*=\s*["']([^"']*)"""
_UUID = r"(\w{8})(\w{4})(\w{4})(\w{4})(\w{12})"


class Domain:
    """A guest as libvirt describes it; `disks` has each file once, backing files included."""

    __slots__ = ("disks", "leases", "name", "uuid")

    def __init__(
        self,
        name: str | None,
        uuid: str | None,
        disks: Iterable[Disk] = (),
        leases: Iterable[Resource] = (),
    ) -> None:
        self.name = name
        self.uuid = uuid
        self.disks = list(disks)
        self.leases = list(leases)


def read(path: str) -> str:
    """Return the text of a file; what is no file is refused, not waited for."""
    try:
        with open(opened(path), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _wrong("not a regular file", "save the XML to one", path)
            if status.st_size > LONGEST:
                raise _wrong(f"longer than {LONGEST >> 20} MiB", name=path)
            return file.read(LONGEST).decode()
    except OSError as error:
        raise _wrong(cause(error), "correct --domain-xml", path) from error
    except UnicodeDecodeError as error:
        raise _wrong(f"not UTF-8 ({error.reason} at byte {error.start})", name=path) from error


def parse(text: str, *, with_disks: bool = True, allow_outside: bool = False) -> Domain:
    """Return the domain that a libvirt XML describes, or raise DiscoveryError.

    Reads the headers of images whose backing chain the XML does not tell.
    Without `with_disks` none is looked at, nor refused. A disk whose writer is
    not the guest is refused unless `allow_outside`.
    """
    root = _root(text)
    disks = found_disks(root, allow_outside=allow_outside) if with_disks else ()
    leases = map(_lease, root.iterfind("devices/lease"))
    return Domain(
        root.findtext("name") or None, _uuid(root.findtext("uuid")), strongest(disks), leases
    )


def _root(text: str) -> Element:
    """Return the root element of a document that defines no entities."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise _wrong("it has a DOCTYPE or an ENTITY, which libvirt never writes")
    encoding = re.match(_ENCODING, text)
    if encoding and encoding.group(1).upper() not in {"UTF-8", "UTF8", "US-ASCII"}:
        raise _wrong(f"its encoding is {encoding.group(1)}", "convert it to UTF-8")
    from xml.etree import ElementTree as ET  # 5 ms that only --domain-xml costs

    try:
        root = ET.fromstring(text)  # noqa: S314  # without entities nothing can grow
    except ET.ParseError as error:
        raise _wrong(f"malformed ({error})") from error
    except UnicodeEncodeError as error:
        raise _wrong("not Unicode") from error
    if root.tag != "domain":
        raise _wrong(f"its root is <{root.tag}>, not <domain>")
    return root


def _uuid(given: str | None) -> str | None:
    """Return a uuid as everyone but libvirt wants it: libvirt takes it without dashes, too."""
    if given is None:
        return None
    digits = re.fullmatch(_UUID, "".join(given.split()).replace("-", ""))
    return "-".join(digits.groups()) if digits else given


def _lease(element: Element) -> Resource:
    lockspace, key = element.findtext("lockspace", ""), element.findtext("key", "")
    target = element.find("target")
    path = "" if target is None else target.get("path", "")
    offset = "0" if target is None else target.get("offset", "0")
    name = f"lease {lockspace}:{key}"
    if not lockspace or not key or not path:
        raise _wrong("it lacks a lockspace, a key or a target's path", name=name)
    if ":" in lockspace + key:
        raise _wrong("a colon in its lockspace or key", "rename it", name)
    if not (offset.isascii() and offset.isdigit() and len(offset) < len(str(1 << 64))):
        raise _wrong(f"its offset {offset} is not a number of bytes", name=name)
    return Resource(
        path,
        Mode.EXCLUSIVE,
        ResourceType.LEASE,
        lockspace=lockspace,
        key=key,
        offset_bytes=int(offset),
        found_in=f"domain XML {name}",
    )


def _wrong(
    reason: str, advice: str = "take what virsh dumpxml prints", name: str = ""
) -> DiscoveryError:
    return DiscoveryError("read", f"domain XML {name}".rstrip(), reason, advice)
