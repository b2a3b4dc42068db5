"""Until when are certificates valid: the authority's, the host's own, a member's? For doctor.

Reads the one field of X.509 that ssl does not tell of every certificate. It
must not know what is asked of members.
"""

from __future__ import annotations

import calendar
import re
import ssl
import time

from lockplugins.etcd.connection import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lockplugins.etcd.connection import Endpoint
    from lockplugins.etcd.trust import Trust

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_VERSION = 0xA0  # the only field of a certificate that may be left out before its validity
_VALIDITY = 3  # which of the others that is: serial, algorithm, issuer, validity
_UTC_TIME = 0x17  # with two digits of the year, up to 2049


UNREADABLE = (OSError, ValueError, IndexError)  # what these raise where there is no certificate


def first_end(path: str) -> float:
    """Return when the first of a file's certificates ends, in seconds since 1970."""
    with open(path, "rb") as file:
        found = _PEM.findall(file.read())
    return min(_end(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))) for pem in found)


def end_of_members(endpoint: Endpoint, trust: Trust, until: float) -> float:
    """Return when the one ends that a member shows, if it answers until then."""
    connection = Connection(endpoint, trust)
    try:
        return _end(connection.certificate(until))
    finally:
        connection.close()


def _end(certificate: bytes) -> float:
    """Return the notAfter of a certificate in DER."""
    (_, whole) = next(_elements(certificate))
    (_, signed) = next(_elements(whole))
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    _begin, (tag, end) = _elements(fields[_VALIDITY])
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return float(calendar.timegm(time.strptime(end.decode("ascii"), form)))


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each of DER's elements."""
    at = 0
    while at < len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size & 0x80:
            count = size & 0x7F
            size, at = int.from_bytes(data[at : at + count], "big"), at + count
        yield tag, data[at : at + size]
        at += size
