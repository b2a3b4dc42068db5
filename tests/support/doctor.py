"""What does `lock-supervisor doctor` answer? Runs it, and keeps exit code and answer together.

Judges nothing but that the two agree, and that nothing else was said.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.command import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Sequence

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Check:
    """One check as --json prints it."""

    check: str
    ok: bool
    evidence: str
    mend: str | None
    subject: str | None


@dataclass(frozen=True)
class Answer:
    """All that was answered."""

    checks: list[Check]

    def all(self, name: str, subject: str | None = None) -> list[Check]:
        return [c for c in self.checks if (c.check, c.subject) == (name, subject)]

    def one(self, name: str, subject: str | None = None) -> Check:
        (found,) = self.all(name, subject)
        return found


def examine(
    *arguments: str, prefix: Sequence[str] = (), program: Sequence[str] = (PROGRAM,)
) -> Answer:
    """Run `doctor --json` behind `prefix`."""
    done = subprocess.run(
        [*prefix, *program, "doctor", "--json", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.stderr == b"", done
    assert done.returncode in {0, 1}, done
    answer = json.loads(done.stdout)
    checks = [Check(**fields) for fields in answer["checks"]]
    assert answer["ok"] == all(check.ok for check in checks) == (done.returncode == 0)
    assert [check for check in checks if check.ok and check.mend] == []
    assert [check for check in checks if not check.ok and not check.mend] == []
    assert done.stdout.isascii()
    return Answer(checks)
