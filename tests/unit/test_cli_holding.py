"""Is an ordinary user told the truth about disks that others hold, or that it cannot be told?"""

from __future__ import annotations

import json
import os
import tempfile
from typing import TYPE_CHECKING

import prctl
import pytest

from supervisor.cli import holding, main
from tests.support import fuse
from tests.support.locking import Locker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Captured = pytest.CaptureFixture[bytes]

NOBODY = 65534
UNSEEN = "a process that cannot be seen from here ("


def become(user: int) -> None:
    os.seteuid(user)
    prctl.set_dumpable(True)  # or /proc/self would belong to root from now on


@pytest.fixture
def disk() -> Iterator[str]:
    """Of root's, mode 0600, in a directory that everybody may enter; we are not root."""
    if os.geteuid() != 0:
        pytest.skip("needs another user's file")
    assert holding.who_command.name == "who"  # imported while we may read it
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: S103  # another user has to get in
        path = f"{directory}/disk"
        os.close(os.open(path, os.O_CREAT, 0o600))
        yield path
        become(0)


@pytest.mark.usefixtures("_no_runtime_dir")
@pytest.mark.parametrize("posix", [True, False], ids=["POSIX", "OFD"])
def test_who_holds_it_is_named_where_the_kernel_tells_everybody(
    disk: str, capsysbinary: Captured, *, posix: bool
) -> None:
    with Locker(disk, posix=posix) as other:
        become(NOBODY)
        code = main.execute(["who", "--json", disk])
        become(0)
    out, err = capsysbinary.readouterr()
    assert (code, err) == (0, b"")
    (lease,) = json.loads(out)["leases"]
    assert (lease["mode"], lease["state"]) == ("exclusive", "held")
    words = f"process {other.pid} (python" if posix else UNSEEN
    assert lease["holder"]["description"].startswith(words)
    assert lease["holder"]["guest"] is None


@pytest.mark.usefixtures("_no_runtime_dir")
def test_where_nobody_is_seen_it_cannot_be_told(disk: str, capsysbinary: Captured) -> None:
    become(NOBODY)
    assert main.execute(["who", disk]) == 111
    out, err = capsysbinary.readouterr()
    assert (out, err.count(b"\n")) == (b"", 1)
    start = f"lock-supervisor: cannot tell who holds disk {disk}: "
    assert err.decode().startswith(start)
    assert b"EACCES" in err


@pytest.fixture
def _no_runtime_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user without one may ask all the same."""
    for variable in ("LOCK_SUPERVISOR_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("as_root")
def test_a_disk_that_hangs_hangs_no_question(
    tmp_path: Path, capsysbinary: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCK_SUPERVISOR_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(holding, "WITHIN_S", 0.5)
    with fuse.served(tmp_path, fuse.SILENT) as server:
        asked = main.execute(["who", server.disk])
        planned = main.execute(["plan", "--json", "--disk", server.disk, "--", "/bin/true"])
    out, err = capsysbinary.readouterr()
    hung = f"cannot find who holds {server.disk}: no answer within 0.5 s; see which disk or server"
    assert (asked, err.decode()) == (111, f"lock-supervisor: {hung} hangs\n")
    plan = json.loads(out)
    assert planned == 0
    assert plan["refusal"].startswith("cannot find who holds the disks: no answer within 0.5 s; ")
    (row,) = plan["resources"]
    assert row["held_by"]["description"] == f"cannot tell: {plan['refusal']}"
