"""Is a detached guest's log where its owner looks for it, private, and no other guest's?"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockplugins.contract import LockError
from supervisor import log
from supervisor.spec import NAME_BYTES
from tests.support.loop import loop_device

if TYPE_CHECKING:
    from pathlib import Path

UUID = "5f2c1d3e-0000-4000-8000-00000000000a"
NAMES = st.binary(min_size=1, max_size=NAME_BYTES).map(os.fsdecode)
AWKWARD = ("..", ".", "/", "../../etc/passwd", ".hidden", "a/b", "a%2Fb", "%2F", "a.log", "x" * 64)


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Be a user whose state is in tmp_path."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def opened(given: str | None, name: str = "web1") -> str:
    path, fd = log.open_log(given, name, UUID)
    os.close(fd)
    return path


@given(names=st.lists(st.sampled_from(AWKWARD) | NAMES, unique=True, max_size=20))
def test_names_that_differ_have_logs_that_differ_in_one_directory(names: list[str]) -> None:
    paths = [log._default(name) for name in names]
    assert len(set(paths)) == len(names)
    for path in paths:
        directory, file_name = os.path.split(path)
        assert directory == log._directory()
        assert not file_name.startswith(".")
        assert len(os.fsencode(file_name)) <= 255


def test_an_ordinary_name_is_seen_in_the_logs(state: Path) -> None:
    assert opened(None) == f"{state}/lock-supervisor/web1.log"
    assert opened(None, os.fsdecode(b"\xff ../x")) == os.fsdecode(
        os.fsencode(state) + b"/lock-supervisor/\xff ..%2Fx.log"
    )


def test_the_place_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert log._default("web1") == "/var/log/lock-supervisor/web1.log"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/me")
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", unusable)
        assert log._default("a") == "/home/me/.local/state/lock-supervisor/a.log"


def test_directory_and_file_are_private_and_each_start_is_a_line(state: Path) -> None:
    for _ in range(2):
        path = opened(None)
    assert stat.S_IMODE(os.stat(state / "lock-supervisor").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with open(path, encoding="ascii") as file:
        lines = file.read().splitlines()
    assert len(lines) == 2
    start = rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ lock-supervisor: starting guest web1 \({UUID}\)"
    assert all(re.fullmatch(start, line) for line in lines)


def test_a_log_that_is_cut_goes_on_at_its_start(tmp_path: Path) -> None:
    path, fd = log.open_log(str(tmp_path / "a.log"), "web1", UUID)
    os.truncate(path, 0)
    os.write(fd, b"next\n")
    os.close(fd)
    assert (tmp_path / "a.log").read_bytes() == b"next\n"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        ("", "No such file or directory"),
        ("mkdir -p a/log", "Is a directory"),
        ("mkdir a && ln -s /dev/null a/log", "it is a symbolic link"),
        ("mkdir a && mkfifo a/log", "it is a FIFO that nobody reads"),
        ("mkdir a && mknod a/log c 1 7", "No space left on device"),
        ("touch a", "Not a directory"),
    ],
)
def test_what_cannot_be_written_is_named_with_the_reason(
    make: str, reason: str, tmp_path: Path
) -> None:
    assert os.system(f"cd {tmp_path} && {make or ':'}") == 0  # noqa: S605  # the words are ours
    with pytest.raises(LockError, match=f"cannot write log {tmp_path}/a/log: {reason}") as caught:
        opened(f"{tmp_path}/a/log")
    assert caught.value.exit_code == 111
    assert "--log" in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes block devices")
def test_a_block_device_keeps_its_first_bytes(tmp_path: Path) -> None:
    with loop_device(str(tmp_path / "image")) as device:
        with pytest.raises(LockError, match=f"cannot write log {device}: it is a block device"):
            opened(device)
        with open(device, "rb") as file:
            assert file.read(512) == bytes(512)
