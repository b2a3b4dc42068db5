"""Has a guest one living guard, and does its directory say so to everyone?"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import select
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import holders, records, rundir
from supervisor.rundir import GuardDir, RundirError, SupervisedError
from tests.support.scripted import guest_json

if TYPE_CHECKING:
    import threading
    from pathlib import Path

UUID = "5f2c1d3e-0000-4000-8000-00000000000a"
RACERS = 8
ROUNDS = 40
ANOTHER_USER = 64055  # libvirt-qemu

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    # as os.fsdecode makes them: a byte that is not UTF-8 is a lone low surrogate
    | st.text() | st.binary().map(os.fsdecode),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def let_go(guard_dir: GuardDir) -> None:
    """End a claim as the guard's death does."""
    os.close(guard_dir.lock_fd)
    os.close(guard_dir.dir_fd)


def test_a_claim_is_private_locked_and_names_its_process(tmp_path: Path) -> None:
    base = str(tmp_path / "a" / "b")
    guard_dir = GuardDir.claim(base, UUID)
    assert guard_dir.path == f"{base}/{UUID}"
    assert stat.S_IMODE(os.stat(guard_dir.path).st_mode) == 0o700
    assert (tmp_path / "a" / "b" / UUID / "supervisor.pid").read_text() == f"{os.getpid()}\n"
    assert rundir.is_guarded(guard_dir.path)
    let_go(guard_dir)
    assert not rundir.is_guarded(guard_dir.path)


def test_a_second_claim_names_the_first(tmp_path: Path) -> None:
    first = GuardDir.claim(str(tmp_path), UUID)
    with pytest.raises(SupervisedError, match=f"process {os.getpid()} already runs it") as caught:
        GuardDir.claim(str(tmp_path), UUID)
    assert caught.value.exit_code == 110
    assert rundir.is_guarded(first.path)
    let_go(first)


def test_a_claim_clears_what_a_dead_guard_left(tmp_path: Path) -> None:
    dead = GuardDir.claim(str(tmp_path), UUID)
    dead.publish("guest.json", "{}\n")
    dead.publish("child.pid", "1\n")
    (tmp_path / UUID / "control").touch()
    let_go(dead)
    heir = GuardDir.claim(str(tmp_path), UUID)
    assert os.listdir(heir.path) == ["supervisor.pid"]
    let_go(heir)


def test_looking_at_the_lock_changes_nothing(tmp_path: Path) -> None:
    guard_dir = GuardDir.claim(str(tmp_path), UUID)
    path = f"{guard_dir.path}/supervisor.pid"
    before = os.stat(path)
    for _ in range(2):
        assert rundir.is_guarded(guard_dir.path)
    after = os.stat(path)
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    let_go(guard_dir)


@pytest.mark.parametrize("place", ["missing", "file", "empty"])
def test_what_no_guard_ever_locked_is_not_guarded(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert not rundir.is_guarded(str(tmp_path / place))


def test_remove_dead_takes_the_dead_and_leaves_the_living(tmp_path: Path) -> None:
    guard_dir = GuardDir.claim(str(tmp_path), UUID)
    guard_dir.publish("guest.json", "{}\n")
    assert not rundir.remove_dead(guard_dir.path)
    assert sorted(os.listdir(guard_dir.path)) == ["guest.json", "supervisor.pid"]
    let_go(guard_dir)
    assert rundir.remove_dead(guard_dir.path)
    assert os.listdir(tmp_path) == []
    assert rundir.remove_dead(guard_dir.path)


@pytest.mark.skipif(os.geteuid() != 0, reason="the directory of another user needs root")
def test_root_removes_another_users_dead_but_puts_no_guard_there(tmp_path: Path) -> None:
    guard_dir = GuardDir.claim(str(tmp_path), UUID)
    for path in (guard_dir.path, f"{guard_dir.path}/supervisor.pid"):
        os.chown(path, ANOTHER_USER, ANOTHER_USER)
    assert not rundir.remove_dead(guard_dir.path)
    let_go(guard_dir)
    with pytest.raises(RundirError, match="others may change it"):
        GuardDir.claim(str(tmp_path), UUID)
    assert rundir.remove_dead(guard_dir.path)
    assert os.listdir(tmp_path) == []


def test_a_fifo_in_place_of_the_pid_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / UUID).mkdir()
    os.mkfifo(tmp_path / UUID / "supervisor.pid")
    assert not rundir.is_guarded(str(tmp_path / UUID))
    assert rundir.remove_dead(str(tmp_path / UUID))
    assert os.listdir(tmp_path) == []


def test_a_file_is_published_whole_or_not_at_all(tmp_path: Path) -> None:
    guard_dir = GuardDir.claim(str(tmp_path), UUID)
    guard_dir.publish("guest.json", "old")
    os.mkdir(f"{guard_dir.path}/new")  # in the way of the next one
    with pytest.raises(RundirError, match=r"cannot write .*guest\.json"):
        guard_dir.publish("guest.json", "new")
    assert (tmp_path / UUID / "guest.json").read_text() == "old"
    let_go(guard_dir)


def test_a_base_that_cannot_be_made_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RundirError, match="Not a directory") as caught:
        GuardDir.claim(str(tmp_path / "file"), UUID)
    assert caught.value.exit_code == 111
    assert os.listdir(tmp_path) == ["file"]


def test_a_symlink_in_place_of_the_pid_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / UUID).mkdir()
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / UUID / "supervisor.pid").symlink_to(tmp_path / "victim")
    with pytest.raises(RundirError):
        GuardDir.claim(str(tmp_path), UUID)
    assert (tmp_path / "victim").read_text() == "untouched"


@pytest.mark.parametrize("heir", [False, True])
def test_a_claim_of_a_file_that_was_removed_under_it_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, heir: bool
) -> None:
    """Between open and lock a remover is done, and perhaps another guard as fast as we are."""
    let_go(GuardDir.claim(str(tmp_path), UUID))
    real, heirs = fcntl.fcntl, list[GuardDir]()

    def late(fd: int, command: int, argument: bytes) -> object:
        monkeypatch.setattr(fcntl, "fcntl", real)
        assert rundir.remove_dead(str(tmp_path / UUID))
        if heir:
            heirs.append(GuardDir.claim(str(tmp_path), UUID))
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", late)
    if heir:
        with pytest.raises(SupervisedError):
            GuardDir.claim(str(tmp_path), UUID)
        let_go(heirs[0])
    else:
        claimed = GuardDir.claim(str(tmp_path), UUID)
        assert rundir.is_guarded(str(tmp_path / UUID))
        let_go(claimed)


def test_a_claim_outlasts_a_remover_and_takes_it_for_no_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / UUID)
    removing = rundir._try_claim(path, rundir._ONE)
    assert removing is not None
    assert not rundir.is_guarded(path)
    assert rundir.remove_dead(path), "another remover is at it"

    def finish(*_: object) -> None:
        GuardDir(path, *removing).remove()
        os.close(removing[1])

    monkeypatch.setattr(select, "select", finish)
    claimed = GuardDir.claim(str(tmp_path), UUID)
    assert rundir.is_guarded(path)
    assert not rundir.remove_dead(path)
    let_go(claimed)
    os.close(removing[0])


def _claim_and_die(base: str, barrier: threading.Barrier, won: object) -> None:
    barrier.wait()
    for _ in range(ROUNDS):
        try:
            guard_dir = GuardDir.claim(base, UUID)
        except SupervisedError:
            rundir.remove_dead(f"{base}/{UUID}")
            continue
        holder = f"{base}/holder"
        os.close(os.open(holder, os.O_CREAT | os.O_EXCL))  # fails if there are two
        for _ in range(20):
            os.sched_yield()
        os.unlink(holder)
        won.value += 1  # type: ignore[attr-defined]  # guarded by the claim itself
        guard_dir.remove()
        let_go(guard_dir)


def test_racing_claims_and_removals_never_give_two_guards(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, won = context.Barrier(RACERS), context.Value("i", 0, lock=False)
    racers = [
        context.Process(target=_claim_and_die, args=(str(tmp_path), barrier, won))
        for _ in range(RACERS)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(30)
    assert [racer.exitcode for racer in racers] == [0] * RACERS
    assert won.value > 0
    assert os.listdir(tmp_path) == []


def test_a_directory_path_longer_than_a_socket_address_has_a_short_one(tmp_path: Path) -> None:
    guard_dir = GuardDir.claim(str(tmp_path.joinpath(*["d" * 100] * 3)), UUID)
    assert len(guard_dir.control_path()) < 108
    assert os.path.samefile(os.path.dirname(guard_dir.control_path()), guard_dir.path)
    let_go(guard_dir)


def test_the_start_time_is_read_whatever_a_process_calls_itself(tmp_path: Path) -> None:
    odd = tmp_path / ") R 1 (x"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([str(odd), "30"]) as process:
        started = rundir.start_time(process.pid)
        ours = rundir.start_time(os.getpid())
        assert started is not None
        assert ours is not None
        assert started >= ours > 0
        process.kill()
        process.wait()
        assert rundir.start_time(process.pid) is None


def test_the_guest_of_a_guard_is_found_by_the_file_that_it_holds(tmp_path: Path) -> None:
    guard_dir = GuardDir.claim(str(tmp_path / "with\nnewline"), UUID)
    assert holders.guest_of(os.getpid()) is None
    guest = guest_json({"supervisor_pid": os.getpid() + 1})
    guard_dir.publish("guest.json", rundir.as_json(guest))
    assert holders.guest_of(os.getpid()) is None
    guest = guest_json({})
    guard_dir.publish("guest.json", rundir.as_json({**guest, "name": ["no", "name"]}))
    assert holders.guest_of(os.getpid()) is None
    guard_dir.publish("guest.json", rundir.as_json(guest))
    assert holders.guest_of(os.getpid()) == guest
    let_go(guard_dir)
    assert holders.guest_of(os.getpid()) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_a_half_written_guest_json_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "guest.json").write_bytes(text.encode("latin-1"))
    assert records.read_guest(str(tmp_path)) is None


def test_guest_json_is_there_at_every_instant_of_a_publication(tmp_path: Path) -> None:
    (tmp_path / "guest.json").write_text('{"leases": 1}')
    (tmp_path / "new").write_text('{"leases": 2}')
    assert records.read_guest(str(tmp_path)) == {"leases": 1}
    (tmp_path / "guest.json").unlink()
    assert records.read_guest(str(tmp_path)) == {"leases": 2}
    (tmp_path / "new").write_text("4711\n")  # another file's turn
    assert records.read_guest(str(tmp_path)) is None


@given(json_values)
def test_as_json_is_ascii_json(value: object) -> None:
    text = rundir.as_json(value)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == value
