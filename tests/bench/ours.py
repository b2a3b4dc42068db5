"""How are the guard, the front door and the Python floor under them called?"""

from __future__ import annotations

import importlib.util
import os
import uuid
from typing import TYPE_CHECKING

from lockplugins.contract import Resource
from supervisor.spec import Containment, GuestSpec, python, render
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from typing import Any

    from tests.bench.starting import Lab

GUARD = "guard, file, pdeathsig"
GUARD_PIDNS = "guard, file, pidns"
FRONT_DOOR = "lock-supervisor run"
FLOOR = "Python floor: lock, fork, exec"
NOTHING = "python3 -I -S -c pass"

# The least that Python needs to hold a lock that its child carries: no pidfd, no loop, no files.
_FLOOR = """
import fcntl, posix, sys
from _struct import pack
fd = posix.open(sys.argv[1], posix.O_RDWR)
fcntl.fcntl(fd, fcntl.F_OFD_SETLK, pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0))
pid = posix.fork()
if pid == 0:
    posix.execv(sys.argv[2], sys.argv[2:])
posix._exit(posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1]))
"""


def nothing() -> list[str]:
    """Return the command of an interpreter that starts and ends."""
    return [python(), "-I", "-S", "-c", "pass"]


def floor(lab: Lab, name: str) -> list[str]:
    return [python(), "-I", "-S", "-c", _FLOOR, lab.image(name)]


def guard(lab: Lab, name: str, **fields: Any) -> list[str]:
    """Return the argv of a guard of one exclusive disk, up to its `--`."""
    return words(spec(lab, name, **fields))


def words(guest: GuestSpec) -> list[str]:
    """Return the guard's argv for `guest`, up to its `--`."""
    return render(guest)


def spec(lab: Lab, name: str, **fields: Any) -> GuestSpec:
    """Return a guest of one exclusive disk, with a uuid made from its name."""
    guest = GuestSpec("guest", str(uuid.uuid5(uuid.NAMESPACE_OID, name)), lab.runtime_dir)
    guest.import_dirs = [_prctl_directory()]
    guest.resources = [Resource(lab.image(name))]
    guest.containment = Containment.PDEATHSIG
    for field, value in fields.items():
        setattr(guest, field, value)
    return guest


def front_door(lab: Lab, name: str, *options: str) -> list[str]:
    return [
        *command(), "run", "--runtime-dir", lab.runtime_dir,
        "--containment", Containment.PDEATHSIG, "--name", name, *options, "--",
    ]  # fmt: skip


def command() -> list[str]:
    """Return the checkout's command."""
    return [os.path.join(CHECKOUT, "bin/lock-supervisor")]


def _prctl_directory() -> str:
    found = importlib.util.find_spec("prctl")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("prctl is not installed; run bin/setup")
    return os.path.dirname(found.origin)
