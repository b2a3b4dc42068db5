"""What is this process, to the kernel? Its user, its capabilities, its freezer.

Read from /proc, nothing is tried. It must not know what is to be run.
"""

from __future__ import annotations

from supervisor.doctor.asking import Check
from supervisor.doctor.names import Name

_CAPABILITIES = {
    5: "CAP_KILL (signal guests of other users)",
    19: "CAP_SYS_PTRACE (name holders)",
    21: "CAP_SYS_ADMIN (PID namespaces)",
    24: "CAP_SYS_RESOURCE (protection from the OOM killer)",
}
_ROOT_CGROUP = "/"


def user(status: str) -> Check:
    """Judge the user by /proc/self/status."""
    fields = dict(line.split(":", 1) for line in status.splitlines())
    effective = int(fields["CapEff"], 16)
    uid = fields["Uid"].split()[1]
    lacking = [words for number, words in _CAPABILITIES.items() if not effective >> number & 1]
    who = "root" if uid == "0" else f"user {uid}"
    if not lacking:
        return Check(Name.USER, True, f"{who}, with every capability that a guard uses")
    evidence = f"{who}, without {', '.join(lacking)}; what needs them is refused or left out"
    return Check(
        Name.USER, False, evidence, "be root; in a container, give it these too (--cap-add)"
    )


def freezer(cgroups: str) -> Check:
    """Judge the freezer by /proc/self/cgroup (cgroups(7)).

    Version 1's keeps a frozen process even from SIGKILL; version 2's does not.
    """
    lines = [line.split(":", 2) for line in cgroups.splitlines()]
    first = [path for _, controllers, path in lines if "freezer" in controllers.split(",")]
    if first and first[0] != _ROOT_CGROUP:
        evidence = (
            f"in {first[0]} of the version 1 freezer: a supervisor that is frozen alone outlives"
            " its deadline, and so does its guest; frozen together, both wait for the thaw"
        )
        mend = "freeze no supervisor, or start it in a cgroup that nobody freezes"
        return Check(Name.FREEZER, False, evidence, mend)
    if first:
        return Check(Name.FREEZER, True, "in the root of the version 1 freezer, never frozen")
    second = [path for number, controllers, path in lines if (number, controllers) == ("0", "")]
    where = second[0] if second else "none"
    evidence = f"version 2 ({where}): what it froze still dies of SIGKILL"
    return Check(Name.FREEZER, True, evidence)


def read(name: str) -> str:
    """Return a file of /proc/self."""
    with open(f"/proc/self/{name}", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
