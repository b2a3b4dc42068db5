"""Which errors does no test provoke, and why? Each is known by words that no other line has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Excuse:
    """What docs/errors.md says of a line without having seen it; `why` is the tests' reason."""

    subject: str
    code: int
    means: str
    why: str


SANLOCK = "Leases of sanlock"

_ATTEMPT = Excuse(
    SANLOCK,
    111,
    "sanlock's own name and number for what its storage or its daemon said of the attempt. "
    "Try the command again: whose the guest is does not change by it.",
    "it takes storage that fails",
)

EXCUSED = {
    "is unkillable": Excuse(
        "Finding, watching and ending guests",
        111,
        "The guest waits for storage that does not answer. Mend the storage, or reboot the host: "
        "until then nobody else may start it.",
        "it takes 30 s of uninterruptible sleep",
    ),
    "the lock manager has not answered": Excuse(
        "Starting a guest",
        111,
        "The lock manager hangs. Look at it (is its process stopped?) before you start guests.",
        "it takes 10 s",
    ),
    "cannot run …: no answer within": Excuse(
        "Leases that are not acquired",
        111,
        "LVM hangs, perhaps on a disk that is gone. Run the command by hand.",
        "it takes 30 s",
    ),
    "whether every disk is named": Excuse(
        "Disks found in arguments",
        111,
        "`doctor` was given disks by name, and cannot see whether COMMAND writes to others too.",
        "doctor shows it as a check",
    ),
    "the last renewal has no answer yet": Excuse(
        "Pauses",
        111,
        "The lock manager still owes an answer to a renewal of before the pause. Try again then.",
        "it takes 30 s",
    ),
    "it is to end by now: ": Excuse(
        "Pauses",
        111,
        "The guest was told to end, or lost a lease, while it was being paused. It is ended.",
        "it takes both at once",
    ),
    "it does not stand still by now": Excuse(
        "Pauses",
        111,
        "The guest was told to end, or somebody had it continue, while its leases were taken back.",
        "it takes both at once",
    ),
    "parent directory does not exist": Excuse(
        SANLOCK,
        111,
        "Said as `Unable to create lockspace …`, in the words of libvirt. Mount or make the "
        "directory, or name another one as `disk_lease_dir`.",
        "it does not have the shape of ours",
    ),
    "this host has just left it": Excuse(
        SANLOCK,
        111,
        "An administrator, or sanlock, took this host out of the lockspace as it joined.",
        "it is a matter of milliseconds",
    ),
    "sanlock is ending what uses it": Excuse(
        SANLOCK,
        111,
        "sanlock could not renew this host's place in the lockspace. Once all that used it is "
        "dead, the next start joins it anew.",
        "tests/faults have a lockspace that fails",
    ),
    "sanlock gives it up": Excuse(
        SANLOCK,
        112,
        "sanlock could not renew this host's place in the lockspace, and ends what uses it.",
        "tests/faults have a lockspace that fails",
    ),
    "sanlock has it still": Excuse(
        SANLOCK,
        111,
        "sanlock could not write that the lease is free; it goes on trying.",
        "it takes 8 s of storage that hangs",
    ),
    "cannot list the guest's leases": Excuse(
        SANLOCK,
        111,
        "sanlock did not answer. Said as the reason when a lease is lost.",
        "the daemon has to end between two questions",
    ),
    "nobody is in the way for long": Excuse(
        "Leases of etcd",
        111,
        "Holders came and went, or etcd ended this guest's session, all the while. Try again.",
        "it takes 8 s of others who come and go",
    ),
    "cannot release the lease on …: …; see the daemon's log": Excuse(
        SANLOCK,
        111,
        "The guest has the disk by another name, too, as a shared one, and sanlock does not make "
        "it that. All stays held.",
        "it takes storage that fails",
    ),
    "its answer cannot be understood": Excuse(
        SANLOCK,
        111,
        "The daemon is of a version that tells other things of itself.",
        "there is no such daemon to be had; a unit test lies like one",
    ),
    "cannot lease …: …; see the daemon's log": Excuse(
        SANLOCK,
        111,
        "sanlock's own name and number for what its storage or its daemon said.",
        "it takes storage that fails",
    ),
    "migration is: somebody else was in between": _ATTEMPT,
    "migration is: …; try again; see the daemon's log": _ATTEMPT,
    "cannot remove lease file": Excuse(
        SANLOCK,
        111,
        "The directory of the leases is not writable, or its filesystem is gone.",
        "it takes a filesystem that turns read-only between two steps",
    ),
    "cannot await the guest: …; see the daemon's log": Excuse(
        SANLOCK,
        111,
        "sanlock's own name and number for what its storage or its daemon said.",
        "it takes storage that fails",
    ),
    "they are shared by": Excuse(
        SANLOCK,
        110,
        "The source is there, and has not answered yet. Is it stopped, or its daemon?",
        "tests/faults have a daemon that is stopped",
    ),
    "somebody else may have had them since": Excuse(
        SANLOCK,
        112,
        "The source has ended, and the disks' leases have moved on: somebody has had them, or has "
        "tried to. The guest's memory may not fit its disks any more: start it anew.",
        "tests/faults have a stranger between two hosts",
    ),
}
