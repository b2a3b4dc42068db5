"""How many renewals does one asker get answered? A script: it is one of many, each a process.

Called as `PYTHON etcd_asking.py CHECKOUT NAME GUESTS SECONDS TABLE...`, TABLE as KEY=VALUE.
Prints a line when its guests have their leases, waits for one, renews them in turn for
SECONDS, and prints what it saw as JSON.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time

_BYTES = struct.Struct("120xQQ")  # of tcp_info: tcpi_bytes_acked, tcpi_bytes_received


def main(checkout: str, name: str, guests: str, seconds: str, *table: str) -> None:
    sys.path[0] = checkout
    from lockplugins.contract import Resource
    from tests.bench.etcd_peers import opened, wanted

    config = dict(pair.split("=", 1) for pair in table)
    plugins = []
    for number in range(int(guests)):
        guest = f"{name} {number}"
        plugin = opened(config, guest)
        (machine,) = wanted(guest, [])
        plugin.acquire([machine, Resource("/", identity=guest)], None)
        plugin.renew()
        plugins.append(plugin)
    print("ready", flush=True)
    sys.stdin.readline()
    took: list[float] = []
    cpu, sent = time.process_time(), _traffic(plugins)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        begin = time.monotonic()
        plugins[len(took) % len(plugins)].renew()
        took.append((time.monotonic() - begin) * 1e3)
    cpu_s = time.process_time() - cpu
    print(json.dumps({"ms": took, "cpu_s": cpu_s, "bytes": _traffic(plugins) - sent}), flush=True)


def _traffic(plugins: list) -> int:  # type: ignore[type-arg]  # what is imported above
    """Return the bytes that their connections have carried so far, both ways, TLS included."""
    total = 0
    for plugin in plugins:
        for connection in plugin._renewals._connections:
            if connection.sock is not None:
                info = connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
                total += sum(_BYTES.unpack(info))
    return total


if __name__ == "__main__":
    main(*sys.argv[1:])
