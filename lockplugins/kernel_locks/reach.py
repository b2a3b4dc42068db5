"""How far does a file's lock reach, and what becomes of it? Reads the kernel's list of mounts.

Local filesystems exclude on this host; network and cluster filesystems each
have their own answer. It must not open or lock anything.
"""

from __future__ import annotations

NAME = "reach"

_HERE = "excludes on this host only"
_LOCAL_LOCKS = "its locks are this host's alone, whoever else has it mounted"
_UNTOLD = "whether its locks reach other hosts cannot be told from here"
_ELSEWHERE = "use it from one host, or put images or lockspace on a filesystem that locks for all"
_FENCE = "fence a host before its guests are started elsewhere, or use a plugin whose leases expire"

_NFS = ("nfs", "nfs4")
# What is said of a filesystem by its kind alone: does it weaken, why, what to do.
_ALL_HOSTS = (True, "its locks reach every host, and end with a host that it lost", "")
_ONE_OF_MANY = (False, _LOCAL_LOCKS, _ELSEWHERE)
_MANDATORY = (
    False,
    "its locks forbid reading too, and QEMU is another reader",
    "put images on another filesystem",
)
_FUSE = (False, f"{_UNTOLD}; most FUSE servers leave locks to the host", _ELSEWHERE)
_KINDS = {
    **dict.fromkeys(("ceph", "gfs2", "gpfs", "ocfs2"), _ALL_HOSTS),
    **dict.fromkeys(("9p", "afs", "vboxsf", "virtiofs"), _ONE_OF_MANY),
    **dict.fromkeys(("cifs", "smb3", "smbfs"), _MANDATORY),
    **dict.fromkeys(("fuse", "fuseblk"), _FUSE),
    "overlay": (
        False,
        "the same file under its upper or lower directory has locks of its own",
        "put images on a volume of their own",
    ),
}
REMOTE = {*_NFS, *_KINDS, "lustre"} - {"overlay"}


class Mount:
    """One mount as /proc/PID/mountinfo has it (proc_pid_mountinfo(5))."""

    __slots__ = ("options", "type")

    def __init__(self, line: str) -> None:
        before, _, after = line.partition(" - ")
        here = before.split()[5]
        self.type, _source, *rest = after.split()
        self.options = ",".join([here, *rest]).split(",")

    @property
    def kind(self) -> str:
        """The filesystem without what is mounted through it (fuse.sshfs is fuse)."""
        return self.type.partition(".")[0]


def mount_of(fd: int) -> Mount | None:
    """Return the mount that `fd` was opened on, None if it is out of our sight."""
    wanted = ""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        for line in info:
            label, _, value = line.partition(":")
            wanted = value.strip() if label == "mnt_id" else wanted
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            if line.split(" ", 1)[0] == wanted:
                return Mount(line)
    return None


def of_file(fd: int) -> tuple[bool, str, str]:
    """Say how far a lock reaches on the file that `fd` is open on."""
    mount = mount_of(fd)
    if mount is None:
        return False, "its filesystem is not in our list of mounts", "ask outside the container"
    return judge(mount)


def judge(mount: Mount) -> tuple[bool, str, str]:
    """Say how far the locks of a filesystem reach."""
    if mount.kind in _NFS:
        return _nfs(mount)
    if mount.kind == "lustre":
        return _lustre(mount)
    said = _KINDS.get(mount.kind, (True, _HERE, ""))
    well, words, mend = _ONE_OF_MANY if "nobrl" in mount.options else said
    return well, f"{mount.type}: {words}", mend


def _lustre(mount: Mount) -> tuple[bool, str, str]:
    if "flock" in mount.options:
        return True, f"lustre: {_ALL_HOSTS[1]}", ""
    return False, f"lustre without flock: {_LOCAL_LOCKS}", "mount it with -o flock"


def _nfs(mount: Mount) -> tuple[bool, str, str]:
    options = mount.options
    told = [option.removeprefix("vers=") for option in options if option.startswith("vers=")]
    version = told[0] if told else {"nfs": "3", "nfs4": "4"}[mount.type]
    local = [
        option for option in ("nolock", "local_lock=all", "local_lock=posix") if option in options
    ]
    if local:
        why = f"NFS {version} with {local[0]}: {_LOCAL_LOCKS}"
        return False, why, f"mount it without {local[0]}"
    words = f"NFS {version}: its locks reach every host"
    if version.startswith(("2", "3")):
        mend = "mount it with vers=4.2, or clear them at the server when a host died"
        return False, f"{words}; those of a host that died stay for good", mend
    return False, f"{words}; a host that is cut off loses them, and is not told", _FENCE
