"""Who holds a resource, here or on another host? Asks the daemon and the storage, changes nothing.

What is written there counts for as long as its host may live. It must not know
guests.
"""

from __future__ import annotations

import time
from errno import ENOENT

from lockplugins.contract import Holder, LeaseUnknownError, Mode
from lockplugins.sanlock import status
from lockplugins.sanlock.library import SanlockError, named
from lockplugins.sanlock.times import failure_s, takeover_s

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lockplugins.sanlock.library import Library, Owner
    from lockplugins.sanlock.names import Place


def of_places(
    places: Iterable[Place], library: Library, name: str, beside: int = 0
) -> list[Holder]:
    """Return all who hold one of these resources, `beside` that process; raises LockError.

    Errors call them `name`.
    """
    told = status.read()
    holders: dict[tuple[object, str], Holder] = {}
    for place in places:
        here = list(_here(place, told))
        others = [holder for holder in here if holder.pid != beside]
        for holder in others or _elsewhere(place, told, library, name, is_here=bool(here)):
            holders.setdefault((holder.pid or holder.host, holder.mode), holder)
    return list(holders.values())


def _here(place: Place, told: status.Status) -> Iterator[Holder]:
    """Yield the processes of this host that have it."""
    for held in told.resources:
        if held.key == place.key:
            mode = Mode.SHARED if held.is_shared else Mode.EXCLUSIVE
            if held.is_leaving:
                words = f"sanlock itself, which is freeing what process {held.pid} had"
                yield Holder(mode, words, generation=held.version)
            else:
                words = f"process {held.pid} ({_command(held.pid)})"
                yield Holder(mode, words, held.pid, generation=held.version)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return "gone by now"


def _elsewhere(
    place: Place, told: status.Status, library: Library, name: str, *, is_here: bool
) -> Iterator[Holder]:
    """Yield the hosts that have it according to the storage, and may be alive.

    This one not if it `is_here`: then it is known which process has it.
    """
    what = place.resource()
    try:
        owners = library.owners(what)
    except SanlockError as error:
        if error.code == -ENOENT:
            return  # nobody has made it yet
        why = f"{place.path}: {named(error.code)}"
        raise LeaseUnknownError("tell who holds", name, why, "is that a lease?") from error
    joined = next((each for each in told.lockspaces if each.name == place.key[0]), None)
    hosts = {} if joined is None else {each.host_id: each for each in status.hosts(joined.name)}
    for owner in owners:
        if joined is not None and owner.host_id == joined.host_id:
            words = "" if is_here else _of_this_host(owner, joined)
        elif joined is None:
            why = "whether it is alive cannot be told, since this host is not in the lockspace"
            words = f"host_id {owner.host_id} ({why})"
        else:
            words = _of_another(owner, hosts.get(owner.host_id))
        if words:
            mode = Mode.EXCLUSIVE if owner.timestamp else Mode.SHARED
            yield Holder(mode, words, None, f"host_id {owner.host_id}", int(what.version))


def _of_this_host(owner: Owner, joined: status.Membership) -> str:
    """Return in words that this host has it, though no process of it is known to; or nothing."""
    if owner.generation < joined.generation:
        # When it was in the lockspace before. sanlock takes no notice of that, but a guest
        # whose guard stands still lives on until its last proof is over.
        left = joined.since + failure_s(joined.io_timeout_s) - time.monotonic()
        before = f"this host (host_id {owner.host_id}) before sanlock was started anew"
        return f"{before}; its guest may live for {left:.0f} s more" if left > 0 else ""
    return f"this host (host_id {owner.host_id}), which is just taking it or giving it up"


def _of_another(owner: Owner, host: status.Host | None) -> str:
    """Return in words which host has it, and nothing if that is gone."""
    words = f"host_id {owner.host_id}"
    if host is None or not host.seen:
        return f"{words}, not seen yet by this host"
    if host.is_free or host.generation > owner.generation:
        return ""
    age = time.monotonic() - host.seen
    words += f" ({host.name}, seen alive {age:.0f} s ago)"
    if age <= failure_s(host.io_timeout_s):
        return words
    left = takeover_s(host.io_timeout_s) - age
    return f"{words}; its lease can be taken in {left:.0f} s" if left >= 0 else ""
