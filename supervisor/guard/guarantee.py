"""Does what ties the guest to the guard's life hold, now that it runs, and what is promised then?

Loaded when a client asks. It must not know how the tie was chosen.
"""

from __future__ import annotations

from lockplugins.contract import shown
from supervisor.guard import containment
from supervisor.holders import carries
from supervisor.spec import Containment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.contract import Plugin


def doubts(mode: str, pid: int, inode: int) -> str:
    """Look at the running guest; return why the tie may not hold, or nothing."""
    ours, its = containment.status_of("self"), containment.status_of(pid)
    if not its:
        return "the guest's process cannot be looked at"
    if mode == Containment.PDEATHSIG:
        for field, what in (("Uid", "user"), ("Gid", "group"), ("CapPrm", "capabilities")):
            if ours.get(field) != its.get(field):
                return f"the guest changed {what}, which disarms the parent-death signal"
        if containment.children_of(pid):
            return "the guest has forked, and the parent-death signal does not reach its children"
    for process in (pid, *containment.children_of(pid)):
        if not carries(process, inode):
            return f"process {process} of the guest was not seen to carry its leases"
    return ""


def words(mode: str, doubt: str, unleased: Sequence[str], plugin: Plugin) -> str:
    """Return the live guarantee in words; `plugin` is open."""
    tie = (
        "the kernel sends SIGKILL when the supervisor dies"
        if mode == Containment.PDEATHSIG
        else "the kernel ends its PID namespace when the supervisor dies"
    )
    if not doubt and unleased:
        doubt = f"{len(unleased)} open without a lease ({shown(unleased[0])}, …); else {tie}"
    if doubt:
        return f"weakened: {doubt}"
    held = "it carries them"
    if plugin.PROOF_TERM_S:
        held = f"{plugin.PROOF_TERM_S:g} s without a new proof end it, a frozen supervisor's too"
    caveat = f"; {plugin.CAVEAT}" if plugin.CAVEAT else ""
    return f"the guest runs only while every lease is held: {held}, and {tie}{caveat}"
