"""By what are etcd's members trusted, and what do they trust us by? Certificates in files.

They end while guests run on, and are replaced in time: each connection is made
with the files as they are then. It must not know what is asked over it.
"""

from __future__ import annotations

import os
import ssl

from lockplugins.contract import ConfigError, cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lockplugins.etcd.connection import Endpoint

_FILES = ("ca_cert", "cert", "key")
_NEEDS = {"username": "password_file", "password_file": "username", "key": "cert"}


def trust_of(config: Mapping[str, str], endpoints: Sequence[Endpoint]) -> Trust | None:
    """Return what [etcd] says, None without TLS; raises ConfigError if it would be ignored."""
    for given, needed in _NEEDS.items():
        if given in config and needed not in config:
            raise ConfigError(
                "use", given, f"there is no {needed} with it", "give both, or neither"
            )
    files = [config.get(key) for key in _FILES]
    plain = [str(endpoint) for endpoint in endpoints if not endpoint.secure]
    if any(files) and plain:
        why = "there are certificates, and it is not https"
        raise ConfigError("use", f"endpoint {plain[0]}", why, "as in https://host:2379")
    return Trust(*files) if len(plain) < len(endpoints) else None


class Trust:
    """The files of one guest's configuration, each of which may be None; for any thread."""

    def __init__(self, ca_cert: str | None, cert: str | None, key: str | None) -> None:
        self._files = ca_cert, cert, key
        self._seen: list[tuple[int, int, int]] = []
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return what to connect with; raises ConfigError while there never was one.

        Files that cannot be used, or do not yet fit (no two are replaced at once), leave what
        there was.
        """
        try:
            seen = [_looked_at(path) for path in filter(None, self._files)]
            if self._context is None or seen != self._seen:
                self._context = _understood(*self._files)
                self._seen = seen
        except ConfigError:
            if self._context is None:
                raise
        return self._context


def _looked_at(path: str) -> tuple[int, int, int]:
    """Return what is another when the file is."""
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
    except OSError as error:
        raise ConfigError("read", path, cause(error), "see [etcd]") from error
    return found.st_ino, found.st_size, found.st_mtime_ns


def _understood(ca_cert: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_cert)
        if cert:
            context.load_cert_chain(cert, key, password="")  # nobody is asked for it
    except (ssl.SSLError, OSError) as error:
        paths = " ".join(filter(None, (ca_cert, cert, key)))
        raise ConfigError("use", f"TLS files {paths}", f"{error}", "see [etcd]") from error
    return context
