"""Where were the figures taken? The machine's facts, without its name or paths."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def runtime_base() -> str:
    """Return where a runtime directory would be: on tmpfs, as /run is, if there is one."""
    for base in ("/run", os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):
        if base and os.access(base, os.W_OK) and _filesystem(base) == "tmpfs":
            return base
    return "/var/tmp"


def facts(directory: str, runtime_dir: str, versions: Sequence[str]) -> list[str]:
    """Return what the figures depend on; files were locked in `directory`."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    kernel = ".".join(platform.release().split(".")[:2])
    files = f"disks on {_filesystem(directory)}, runtime directory on {_filesystem(runtime_dir)}"
    return [
        f"{_cpu()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB",
        f"{system}, Linux {kernel}; {files}",
        f"Python {platform.python_version()}; " + "; ".join(versions),
    ]


def load() -> str:
    """Return the load of the last minute."""
    return f"{os.getloadavg()[0]:.2f}"


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        lines = [line.partition(":") for line in file]
    fields = {key.strip(): value.strip() for key, _, value in lines}
    guest = "hypervisor" in fields.get("flags", "").split()
    name = fields.get("model name", platform.machine())
    return f"{name}, in a virtual machine" if guest else name


def _filesystem(directory: str) -> str:
    """Return the type of the filesystem that `directory` is on: that of the longest mount point."""
    real = os.path.realpath(directory)
    best, kind = "", "unknown"
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
        for line in file:
            _, point, found = line.split()[:3]
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, found
    return kind
