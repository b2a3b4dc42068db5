"""Which trial is asked for, and what did it find? Prints its findings as one JSON value.

Dies with doctor, and so does whatever it started. It must not know what a
finding means.
"""

from __future__ import annotations

import json
import os
import sys

from lockplugins.contract import LockError, cause
from supervisor import spec
from supervisor.doctor.names import Name
from supervisor.doctor.trial import kernel, places, process, program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lockplugins.contract import Finding

TRIALS: dict[str, Callable[[spec.GuestSpec, list[str]], Iterable[Finding]]] = {
    Name.PIDFD: kernel.pidfd,
    Name.PARENT_DEATH: kernel.parent_death,
    Name.PID_NAMESPACE: kernel.pid_namespace,
    Name.TIMER: kernel.timer,
    Name.OOM: kernel.oom,
    Name.CARRIED: kernel.carried,
    Name.DESCRIPTORS: kernel.descriptors,
    Name.HOLDERS: kernel.holders,
    Name.PYTHON: program.python,
    Name.COMMAND: program.command,
    Name.CONTAINMENT: program.containment,
    Name.MONITOR: program.monitor,
    Name.RUNTIME_DIR: places.runtime_dir,
    Name.PLUGIN: places.plugin,
}


def main() -> None:
    """Try what our arguments name, and end."""
    answer_fd = os.dup(1)
    os.dup2(2, 1)  # what a plugin prints is no answer
    doctor_pidfd, name, *words = sys.argv[1:]
    guest, command = spec.parse(words)
    sys.path += guest.import_dirs
    try:
        process.tie_to(int(doctor_pidfd))
        found = list(TRIALS[name](guest, command))
    except LockError as error:
        found = [(name, False, error.reason, error.advice)]
    except OSError as error:
        found = [(name, False, f"cannot be tried: {cause(error)}", "see what denies it")]
    except ImportError as error:
        found = [(name, False, f"cannot be tried: {error}", f"install it for {spec.python()}")]
    os.write(answer_fd, json.dumps(found).encode())
    os._exit(0)
