"""Does anybody get between the two ends of a migration by sanlock? A program of its own that tries.

sanlock_intruding.py CHECKOUT NAME PATH MODE: without pause, until its standard input ends, tries to
acquire the lease, and gives back what it got; then says how often it tried, and how often it got
in. Asks the daemon that SANLOCK_RUN_DIR names.
"""

from __future__ import annotations

import os
import select
import sys


def main(checkout: str, name: str, path: str, mode: str) -> None:
    sys.path.insert(0, checkout)
    from lockplugins.sanlock import library
    from lockplugins.sanlock.names import Place
    from lockplugins.sanlock.settings import LOCKSPACE

    asked = library.Library()
    fd = asked.register()
    what = Place((LOCKSPACE, name), path).resource(library.SHARED if mode == "shared" else 0)
    tried = got_in = 0
    while not select.select([0], [], [], 0)[0]:
        try:
            asked.acquire(os.getpid(), [what], library.OWNER_NOWAIT, b"intruder")
        except library.SanlockError:
            pass
        else:
            got_in += 1
            try:
                asked.release(os.getpid(), [what])
            except library.SanlockError:  # a bug of sanlock's: it is ours until we are gone
                os.close(fd)
                fd = asked.register()
        tried += 1
        if tried == 1:
            os.write(1, b"intruding\n")
    os.write(1, f"{tried} {got_in}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
