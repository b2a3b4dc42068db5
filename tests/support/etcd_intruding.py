"""Does anybody get between the two ends of a migration by etcd? A program of its own that tries.

etcd_intruding.py CHECKOUT TABLE PATH MODE: without pause, until its standard input ends, tries to
acquire the lease, and gives back what it got; then says how often it tried, and how often it got
in. TABLE is the plugin's, as JSON.
"""

from __future__ import annotations

import json
import select
import sys


def main(checkout: str, table: str, path: str, mode: str) -> None:
    sys.path.insert(0, checkout)
    from lockplugins.carrier import NoCarrier
    from lockplugins.contract import Guest, LeaseHeldError, Resource
    from lockplugins.etcd.plugin import EtcdPlugin

    plugin = EtcdPlugin(json.loads(table), NoCarrier())
    plugin.open(Guest("intruder", "intruder"))
    tried = got_in = 0
    while not select.select([0], [], [], 0)[0]:
        try:
            (lease,) = plugin.acquire([Resource(path, mode)], None)
        except LeaseHeldError:
            pass
        else:
            got_in += 1
            plugin.release(lease)
        tried += 1
        if tried == 1:
            sys.stdout.write("intruding\n")
            sys.stdout.flush()
    sys.stdout.write(f"{tried} {got_in}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
