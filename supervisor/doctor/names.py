"""What are doctor's own checks called? Plugins name theirs themselves."""

from __future__ import annotations


class Name:
    """A closed set; docs/doctor.md has a row for each."""

    PYTHON = "python"
    CONFIGURATION = "configuration"
    PLUGIN = "plugin"
    USER = "user"
    PIDFD = "pidfd"
    PARENT_DEATH = "parent death"
    PID_NAMESPACE = "pid namespace"
    TIMER = "kernel timer"
    CARRIED = "carried lock"
    DESCRIPTORS = "descriptors"
    OOM = "oom score"
    FREEZER = "freezer"
    HOLDERS = "holders"
    RUNTIME_DIR = "runtime directory"
    LIBVIRT = "libvirt"
    DISKS = "disks"
    COMMAND = "command"
    CONTAINMENT = "containment"
    MONITOR = "monitor"
    ALL = (
        PYTHON, CONFIGURATION, PLUGIN, USER, PIDFD, PARENT_DEATH, PID_NAMESPACE, TIMER, CARRIED,
        DESCRIPTORS, OOM, FREEZER, HOLDERS, RUNTIME_DIR, LIBVIRT, DISKS, COMMAND, CONTAINMENT,
        MONITOR,
    )  # fmt: skip
