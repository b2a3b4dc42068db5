"""What do LVM and SCSI call a block device? Asks the tools that libvirt asks.

Imported only where a lockspace directory for them is configured. It must not
know what the names are for.
"""

from __future__ import annotations

import os
import subprocess

from lockplugins.contract import LeaseUnknownError, LockError, cause

TIMEOUT_S = 30.0

_LVS = ("lvs", "--noheadings", "--unbuffered", "--nosuffix", "--options", "uuid")
_SCSI_ID = ("/lib/udev/scsi_id", "--replace-whitespace", "--whitelisted", "--device")


def lvm_uuid(path: str) -> str:
    """Return the uuid of the logical volume at `path`, "" if it is none."""
    return named_by_lvs(_ask((*_LVS, path), "install lvm2 or unset lvm_lockspace_dir"))


def scsi_serial(path: str) -> str:
    """Return the identity of the SCSI unit at `path`, "" if it has none."""
    return named_by_scsi_id(_ask((*_SCSI_ID, path), "install udev or unset scsi_lockspace_dir"))


def is_lvm(device: int) -> bool:
    """Is this device number a logical volume in the kernel's own book?"""
    try:
        path = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/dm/uuid"
        with open(path, encoding="ascii") as uuid:
            return uuid.read(4) == "LVM-"
    except FileNotFoundError:
        return False


def named_by_lvs(output: str) -> str:
    """Return the name in `lvs` output as libvirt reads it: first line, no blanks before it."""
    return _first_line(output.lstrip())


def named_by_scsi_id(output: str) -> str:
    """Return the name in `scsi_id` output as libvirt reads it: the first line."""
    return _first_line(output)


def _first_line(text: str) -> str:
    line = text.partition("\n")[0]
    if "/" in line or "\0" in line or line in {".", ".."}:
        why = "it is not a file's name"
        raise LeaseUnknownError("use", f"device identity {line}", why, "see lvs and scsi_id")
    return line


def _ask(argv: tuple[str, ...], advice: str) -> str:
    """Return the tool's output, "" if it exits with anything but 0; else raises LockError."""
    search = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    environment = {**os.environ, "LC_ALL": "C", "PATH": search}
    name = " ".join(argv)
    try:
        done = subprocess.run(  # closes every descriptor but 0, 1 and 2
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        why = f"no answer within {TIMEOUT_S:g} s"
        raise LeaseUnknownError("run", name, why, "no lease acquired") from error
    except OSError as error:
        raise LockError("run", name, cause(error), advice) from error
    if done.returncode < 0:
        raise LeaseUnknownError("run", name, f"ended by signal {-done.returncode}", advice)
    return "" if done.returncode else os.fsdecode(done.stdout)
