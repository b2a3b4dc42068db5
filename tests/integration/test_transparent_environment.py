"""Does the guest find the environment that the launcher gave? Byte for byte, through every exec."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import insight, prefixes
from tests.support.launcher import Launcher

if TYPE_CHECKING:
    from tests.support.guard import Guards

ENVIRONMENTS = {
    "empty": [],
    "a plain one": ["PATH=/usr/bin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"],
    "LC_CTYPE=C": ["LC_CTYPE=C", "A=1"],
    "LC_CTYPE=POSIX": ["A=1", "LC_CTYPE=POSIX"],
    "an empty LC_CTYPE": ["LC_CTYPE=", "A=1"],
    "LC_CTYPE that is no locale": ["LC_CTYPE=nowhere.UTF-16"],
    "LC_CTYPE in the middle": ["A=1", "LC_CTYPE=C", "B=2"],
    "LC_CTYPE twice": ["LC_CTYPE=C", "A=1", "LC_CTYPE=POSIX"],
    "LC_CTYPE without a value": ["LC_CTYPE", "A=1"],
    "names like LC_CTYPE": ["LC_CTYPEX=1", "XLC_CTYPE=C", "lc_ctype=C"],
    "LC_ALL=C": ["LC_ALL=C"],
    "LC_ALL=POSIX": ["LC_ALL=POSIX", "LC_CTYPE=C"],
    "LANG=C": ["LANG=C"],
    "entries twice": ["A=1", "A=2", "A=1", "PATH=/bin", "PATH=/usr/bin"],
    "entries without =": ["A", "", "B=", "=", "=C", "==D"],
    "no UTF-8": ["A=\xff\xfe", "\x80=1", "B=\xc3\x28"],
    "control characters": ["A=\x01\n\t\x7f", "B\n=1"],
    "what Python would heed": [
        "PYTHONHOME=/nowhere", "PYTHONPATH=/nowhere", "PYTHONCOERCECLOCALE=0", "PYTHONUTF8=0",
        "PYTHONWARNINGS=error", "PYTHONVERBOSE=1", "PYTHONINSPECT=1",
    ],
    "what we would heed": ["LOCK_SUPERVISOR_RUNTIME_DIR=/nowhere", "XDG_RUNTIME_DIR=/nowhere"],
    "a service manager's": ["NOTIFY_SOCKET=/nowhere", "LISTEN_FDS=1", "LISTEN_PID=1"],
    "a large one": [f"V{number}={'x' * 1000}" for number in range(100)],
}  # fmt: skip


@pytest.mark.parametrize("way", prefixes.WAYS)
@pytest.mark.parametrize("env", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_the_environment_arrives_byte_for_byte(guards: Guards, way: str, env: list[str]) -> None:
    guard = prefixes.idling(guards, way, Launcher(env=env))
    given = b"".join(entry.encode("latin-1") + b"\0" for entry in env)
    assert insight.read(guard.child_pid, "environ") == given
