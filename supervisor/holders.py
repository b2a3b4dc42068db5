"""Which guest is behind the process that holds a lease?

Used by the guard when it is refused, on its jobs thread: builtin modules only
until then (README, D2). It must not look at locks.
"""

import posix

from lockplugins.contract import shown
from supervisor import rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lockplugins.contract import LeaseHeldError


def guest_of(pid: int) -> dict[str, object] | None:
    """Return the guest.json of the guard that runs as `pid`, in whatever runtime directory.

    The guard is found by the supervisor.pid that it has open, never by name.
    None when `pid` is no guard or may not be looked at.
    """
    try:
        links = [f"/proc/{pid}/fd/{fd}" for fd in posix.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return None
    for link in links:
        try:
            target = posix.readlink(link)
        except OSError:
            continue
        if target.rpartition("/")[2] == rundir.SUPERVISOR_PID:
            guest = rundir.read_guest(target.rpartition("/")[0])
            if guest is not None and guest.get("supervisor_pid") == pid:
                return guest
    return None


def name_guest(error: "LeaseHeldError") -> None:
    """Say the guest's name in a refusal whose holder is a guard of ours."""
    holder = error.holder
    guest = guest_of(holder.pid) if holder and holder.pid else None
    if holder is None or guest is None:
        return
    name, uuid, since = (shown(str(guest.get(key))) for key in ("name", "uuid", "since"))
    child_pid = guest.get("child_pid")
    child = f", guest pid {child_pid}" if child_pid else ""
    words = f"guest {name} ({uuid}), supervisor pid {holder.pid}{child}, since {since}"
    error.reason = error.reason.replace(holder.description, words)
    holder.description = words
