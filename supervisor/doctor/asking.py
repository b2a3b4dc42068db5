"""What do the trials find? Starts them as processes, and waits for each only so long.

A trial that does not answer is killed; one that cannot be, since a disk or a
server hangs, is left behind, and ends when that answers. It must not know
what is tried.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from dataclasses import asdict, dataclass

from supervisor import spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEADLINE_S = 10.0
_AT_ONCE = 8
_MOMENT_S = 1.0
_FIRST_OTHER = 3
_NO_ONE = "-"  # COMMAND where there is none


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: `subject` is the disk it is about, None for the host or COMMAND."""

    check: str
    ok: bool
    evidence: str
    mend: str = ""
    subject: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return the check as `doctor --json` shows it."""
        return {**asdict(self), "mend": self.mend or None}


class Trial:
    """One trial, called as a guard would be: with `guest` and COMMAND."""

    def __init__(
        self,
        name: str,
        guest: spec.GuestSpec,
        command: Sequence[str] = (),
        subject: str | None = None,
    ) -> None:
        self._name = name
        self._subject = subject
        main = __file__.removesuffix("asking.py") + "trial/__main__.py"
        python, isolated, no_site, _guard, *words = spec.render(guest)
        self._head = [python, isolated, no_site, main]
        self._tail = [name, *words, *(command or [_NO_ONE])]
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline = 0.0

    def start(self, doctor_pidfd: int) -> None:
        if self._process is None:
            self._deadline = time.monotonic() + DEADLINE_S
            self._process = subprocess.Popen(
                [*self._head, str(doctor_pidfd), *self._tail],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[doctor_pidfd],
            )

    def checks(self) -> list[Check]:
        """Wait for the answer of a trial that was started."""
        assert self._process is not None  # noqa: S101  # see above
        # What waited for another's deadline has its answer ready, and needs a moment to give it.
        left_s = max(_MOMENT_S, self._deadline - time.monotonic())
        try:
            said = self._process.communicate(timeout=left_s)[0]
        except subprocess.TimeoutExpired:
            evidence = f"no answer within {DEADLINE_S:g} s"
            return [self._weak(evidence, "see what it waits for: a disk, a server, a program")]
        try:
            found = json.loads(said)
        except ValueError:
            status = self._process.returncode
            evidence = f"its trial ended without an answer (status {status})"
            return [self._weak(evidence, f"try {self._head[0]} -I -S -c pass")]
        return [
            Check(check, well, evidence, mend, self._subject)
            for check, well, evidence, mend in found
        ]

    def _weak(self, evidence: str, mend: str) -> Check:
        return Check(self._name, False, evidence, mend, self._subject)

    def end(self) -> None:
        """Kill it if it is still there, and wait for its end unless that cannot come."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        try:
            process.communicate(timeout=_MOMENT_S)
        except subprocess.TimeoutExpired:
            return  # in uninterruptible sleep: the kernel ends it when it can


def ask(trials: Sequence[Trial]) -> Iterator[Check]:
    """Yield what the trials find, in their order; several run at once."""
    pidfd = os.pidfd_open(os.getpid())
    # A trial has its own standard descriptors, also where we have none.
    doctor_pidfd = fcntl.fcntl(pidfd, fcntl.F_DUPFD_CLOEXEC, _FIRST_OTHER)
    os.close(pidfd)
    try:
        for i, trial in enumerate(trials):
            for begun in trials[i : i + _AT_ONCE]:
                begun.start(doctor_pidfd)
            yield from trial.checks()
            trial.end()
    finally:
        os.close(doctor_pidfd)
        for trial in trials:
            trial.end()
