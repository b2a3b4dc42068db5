"""Does doctor see what is wrong with a place, on filesystems that are really so?

A FUSE server that grants every lock is a filesystem that does not exclude; one
that keeps silent, and a frozen filesystem, are such as hang. Root only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from lockplugins.kernel_locks import exclusion, reach
from supervisor.doctor.names import Name
from tests.faults import freezing
from tests.support import fuse, proclocks, waiting
from tests.support.doctor import DEADLINE_S, examine
from tests.support.qemu import QEMU, Monitor, idle_argv
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.usefixtures("as_root"), pytest.mark.slow]

NO_ANSWER = "no answer within 10 s"
GRANTED = "an exclusive OFD lock of another open is granted beside a shared OFD lock"
EXCLUDES = "OFD and POSIX locks, exclusive and shared, exclude between two opens and two processes"


@pytest.fixture(autouse=True)
def _runtime_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCK_SUPERVISOR_RUNTIME_DIR", str(tmp_path / "run"))


@contextmanager
def mounted(path: Path, *arguments: str) -> Iterator[str]:
    """Mount with these arguments of mount(8) on a new directory."""
    path.mkdir()
    subprocess.run(["mount", *arguments, str(path)], check=True, timeout=30)
    try:
        yield str(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=30)


def lockspace(path: Path, directory: str) -> list[str]:
    """Return the options that make `directory` a lockspace."""
    config = path / "config.toml"
    config.write_text(f'[file]\nfile_lockspace_dir = "{directory}"\n')
    return ["--config", str(config)]


@pytest.mark.parametrize(
    ("how", "well", "words"),
    [
        (fuse.LOCAL, True, EXCLUDES),
        (fuse.GRANTING, False, f"does not exclude: {GRANTED} (and 17 more like it)"),
        (fuse.FAILING, False, "locks fail: No locks available (ENOLCK)"),
    ],
)
def test_a_filesystem_whose_server_does_not_exclude_is_found_out(
    tmp_path: Path, how: str, words: str, *, well: bool
) -> None:
    with fuse.served(tmp_path, how) as server:
        answer = examine("--disk", server.disk, *lockspace(tmp_path, server.path))
    assert answer.one(exclusion.NAME, server.disk).ok == well
    assert answer.one(exclusion.NAME, server.disk).evidence == words
    far = answer.one(reach.NAME, server.disk)
    assert not far.ok
    assert far.evidence.startswith("fuse.test: whether its locks reach other hosts cannot be told")
    # FUSE knows no file without a name: the one that is there is tried.
    of_lockspace = [check.evidence for check in answer.all(exclusion.NAME)]
    assert f"{server.path}: {words}" in of_lockspace


def test_a_server_that_keeps_silent_hangs_its_own_check_alone(tmp_path: Path) -> None:
    before, after = str(tmp_path / "disk"), str(tmp_path / "later")
    for path in (before, after):
        with open(path, "wb") as file:
            file.truncate(512)
    with fuse.served(tmp_path, fuse.SILENT) as server:
        answer = examine("--disk", after, "--disk", server.disk, "--disk", before)
    hung = answer.one(Name.PLUGIN, server.disk)
    assert (hung.ok, hung.evidence) == (False, NO_ANSWER)
    asked = [check.subject for check in answer.checks if check.subject]
    assert asked == sorted(asked), "disks that are asked about before and after"
    assert [answer.one(exclusion.NAME, path).ok for path in (before, after)] == [True, True]


def test_disks_that_cannot_even_be_looked_for_hang_their_own_check_alone(tmp_path: Path) -> None:
    with fuse.served(tmp_path, fuse.DEAD) as server:
        answer = examine("--", QEMU, "-drive", f"file={server.disk}")
    hung = answer.one(Name.DISKS)
    assert (hung.ok, hung.evidence) == (False, f"cannot find the disks: {NO_ANSWER}")
    assert answer.one(Name.CONTAINMENT).ok


def test_a_frozen_filesystem_hangs_its_own_check_alone(tmp_path: Path) -> None:
    with freezing.filesystem(tmp_path) as frozen:
        frozen.freeze()
        answer = examine("--runtime-dir", f"{frozen.path}/run")
        frozen.thaw()
    hung = answer.one(Name.RUNTIME_DIR)
    assert (hung.ok, hung.evidence) == (False, NO_ANSWER)
    assert answer.one(Name.PARENT_DEATH).ok


def test_an_overlay_hides_a_file_that_has_locks_of_its_own(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "disk").write_bytes(bytes(512))
    layers = ",".join(f"{name}dir={tmp_path}/{name}" for name in ("lower", "upper", "work"))
    with mounted(tmp_path / "merged", "-t", "overlay", "-o", layers, "overlay") as merged:
        answer = examine("--disk", f"{merged}/disk,shared")
    assert answer.one(exclusion.NAME, f"{merged}/disk").ok
    far = answer.one(reach.NAME, f"{merged}/disk")
    assert (far.ok, far.mend) == (False, "put images on a volume of their own")


def test_a_read_only_mount_takes_shared_leases_alone(tmp_path: Path) -> None:
    with freezing.filesystem(tmp_path) as made:
        disk = f"{made.path}/disk"
        with open(disk, "wb") as file:
            file.truncate(512)
        subprocess.run(["mount", "-o", "remount,ro", made.path], check=True, timeout=30)
        shared = examine("--disk", f"{disk},readonly").one(exclusion.NAME, disk)
        ours = examine("--disk", disk, *lockspace(tmp_path, f"{made.path}/locks"))
        run = examine("--runtime-dir", f"{made.path}/run").one(Name.RUNTIME_DIR)
    assert shared.ok
    exclusive = ours.one(exclusion.NAME, disk)
    assert exclusive.evidence == "cannot be opened: Read-only file system (EROFS)"
    assert exclusive.mend == "let us write to it: the lease needs that"
    (space,) = [
        check for check in ours.all(exclusion.NAME) if "/locks, to be made" in check.evidence
    ]
    assert space.evidence.endswith("no lock can be tried: Read-only file system (EROFS)")
    assert run.evidence.endswith(": we may not write there")


@pytest.mark.parametrize(
    ("options", "words"),
    [("size=4k", "too little for guests"), ("size=8m,nr_inodes=2", "too little for guests")],
)
def test_a_full_runtime_directory_is_no_good_place(
    tmp_path: Path, options: str, words: str
) -> None:
    with mounted(tmp_path / "full", "-t", "tmpfs", "-o", options, "tmpfs") as full:
        with open(f"{full}/all", "wb") as file:
            try:
                file.write(bytes(1 << 16))
            except OSError:
                pass
        check = examine("--runtime-dir", f"{full}/run").one(Name.RUNTIME_DIR)
    assert not check.ok
    assert check.evidence.startswith(f"{full}/run, to be made in {full} on tmpfs, mode 1777, ")
    assert check.evidence.endswith(words)


def test_a_runtime_directory_that_others_may_change_is_no_good_place(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for mode, owner, words in (
        (0o777, 0, ": others may write there"),
        (0o700, 65534, ": it belongs to user 65534, who can replace it"),
        (0o700, 0, "not guests"),
    ):
        base.chmod(mode)
        os.chown(base, owner, 0)
        check = examine("--runtime-dir", str(base)).one(Name.RUNTIME_DIR)
        assert check.ok == (words == "not guests"), check
        assert check.evidence.endswith(words), check
    (tmp_path / "file").touch()
    check = examine("--runtime-dir", f"{tmp_path}/file").one(Name.RUNTIME_DIR)
    assert check.evidence.endswith(": it is no directory")
    check = examine("--runtime-dir", f"{tmp_path}/{'x' * 300}/run").one(Name.RUNTIME_DIR)
    assert "File name too long" in check.evidence


def snapshot(directory: str) -> dict[str, object]:
    """Return all that a look could have changed, on a filesystem that notes every access."""
    found: dict[str, object] = {"statvfs": os.statvfs(directory)}
    paths = [directory]
    for path in paths:
        status = os.lstat(path)
        locks = proclocks.locks(path)
        found[path] = (status, status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns, locks)
        if os.path.isdir(path):
            fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
            paths += [f"{path}/{name}" for name in sorted(os.listdir(fd))]
            os.close(fd)
    return found


@contextmanager
def somebody_tries(*paths: str) -> Iterator[list[int]]:
    """Have another process take leases without pause; in the end how often, and refusals."""
    counts: list[int] = []
    program = f"{CHECKOUT}/tests/support/trying.py"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", program, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as trying:
        assert trying.stdout is not None
        waiting.readable(trying.stdout.fileno(), DEADLINE_S, "it has begun")
        assert trying.stdout.readline() == b"trying\n"
        yield counts
        said, _ = trying.communicate(timeout=DEADLINE_S)
        counts += map(int, said.split())


def test_no_trace_where_every_access_is_noted(tmp_path: Path) -> None:
    with freezing.filesystem(tmp_path) as made:
        subprocess.run(["mount", "-o", "remount,strictatime", made.path], check=True, timeout=30)
        base, top, free = (f"{made.path}/{name}" for name in ("base.raw", "top.qcow2", "free.raw"))
        for path in (base, free):
            with open(path, "wb") as file:
                file.truncate(1 << 20)
        qemu_img = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, top]
        subprocess.run(qemu_img, check=True, timeout=30)
        os.mkdir(f"{made.path}/locks")
        with open(f"{made.path}/locks/one", "wb"):
            pass
        with Monitor() as monitor:
            asked = [
                *("--disk", free, "--runtime-dir", f"{made.path}/run"),
                *lockspace(tmp_path, f"{made.path}/locks"),
                *("--", *idle_argv(top)),
            ]
            command = idle_argv(top, locking_off=False, extra=monitor.argv)
            with subprocess.Popen(command, pass_fds=[monitor.fd]) as qemu:
                try:
                    monitor.execute("query-status")
                    before = snapshot(made.path)
                    with somebody_tries(free, base) as counts:
                        answer = examine(*asked)
                    after = snapshot(made.path)
                    assert {k: (v, before[k]) for k, v in after.items() if before[k] != v} == {}
                    for disk in (top, base, free):
                        assert answer.one(exclusion.NAME, disk).ok
                    tried, refused = counts
                    print(f"{tried} tries beside doctor, {refused} refused")
                    assert tried > 1000
                    assert refused == 0
                    write = {"command-line": 'qemu-io none0 "write -P 0xab 0 4096"'}
                    monitor.execute("human-monitor-command", **write)
                    monitor.execute("quit")
                    assert qemu.wait(DEADLINE_S) == 0
                finally:
                    qemu.kill()
        read = ["qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0xab 0 4096", top]
        done = subprocess.run(read, capture_output=True, timeout=30, check=True)
        assert b"read 4096/4096 bytes at offset 0" in done.stdout
        assert b"failed" not in done.stdout
