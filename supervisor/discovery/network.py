"""How is a network disk called, whose server and place are said in one name or in options?

By the name that QEMU takes for its file name. It must not know images or other nodes.
"""

from __future__ import annotations

from urllib.parse import quote

from supervisor.discovery.drivers import is_network, protocol
from supervisor.discovery.errors import refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.discovery.disk import Disk
    from supervisor.discovery.errors import DiscoveryError
    from supervisor.discovery.options import Value

# Which options name the disk, in the order of the URI; the server is in others.
_PLACES = {
    "gluster": ("volume", "path"),
    "iscsi": ("target", "lun"),
    "nbd": ("export",),
    "nfs": ("path",),
    "ssh": ("path",),
}
_SERVERS = ("server", "server.0", "")
_MAY_LACK = {"export": "", "lun": "0"}


def name(driver: str, filename: str | None, options: Mapping[str, Value], found_in: str) -> str:
    """Return the file name of a network disk, made from its driver's options if it has none."""
    given = filename or options.get("filename") or options.get("url")
    if given:
        return str(given)
    if driver == "rbd":
        pool, image = (_said(options, key, found_in) for key in ("pool", "image"))
        space, snapshot = options.get("namespace"), options.get("snapshot")
        whole = "/".join([pool, *([str(space)] if space else []), image])
        return f"rbd:{whole}@{snapshot}" if snapshot else f"rbd:{whole}"
    if driver not in _PLACES:
        raise refusal(found_in, f"network disks of driver {driver} are known by file name alone")
    place = "/".join(quote(_said(options, key, found_in)) for key in _PLACES[driver])
    return f"{driver}://{_server(options, found_in)}/{place.lstrip('/')}"


def refused(disk: Disk) -> DiscoveryError:
    """Return the error for a network disk under a plugin that leases files, to be raised."""
    return refusal(
        disk.found_in, f"{protocol(disk.path)} is a network disk, not a file on this host"
    )


def among(disks: Iterable[Disk]) -> list[Disk]:
    """Return which of them are network disks."""
    return [disk for disk in disks if is_network(disk.path)]


def _server(options: Mapping[str, Value], found_in: str) -> str:
    if "portal" in options:
        return str(options["portal"])
    for prefix in _SERVERS:
        keys = [f"{prefix}.{key}" if prefix else key for key in ("host", "port")]
        if options.get(keys[0]):
            host, port = str(options[keys[0]]), options.get(keys[1])
            host = f"[{host}]" if ":" in host else host
            return f"{host}:{port}" if port else host
    raise refusal(found_in, "network disk without a server")


def _said(options: Mapping[str, Value], key: str, found_in: str) -> str:
    value = options.get(key, _MAY_LACK.get(key))
    if value is None:
        raise refusal(found_in, f"network disk without {key}")
    return str(value)
