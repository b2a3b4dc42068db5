"""Is a migration driven by commands, and is each step that is out of turn refused in words?"""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import UnsupportedError
from tests.support import proclocks, waiting
from tests.support.command import freeze
from tests.support.guest.checker import check, describe
from tests.support.locking import READ, Locker
from tests.support.moving import DEADLINE_S
from tests.support.qemu import idle_argv
from tests.support.wire import Refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Command
    from tests.support.guard import Guards
    from tests.support.moving import End, World

pytestmark = pytest.mark.slow

HELD = [("WRITE", 0, "0")]
AWAITING = [("WRITE", 2, "2")]
HANDED = ("READ", 0, "0")


def order(command: Command, world: World, host: int, *words: str) -> str:
    """Run one of the commands that must succeed, in a host's runtime directory."""
    result = command("migrate", *words, "--runtime-dir", world.hosts[host].runtime_dir)
    assert (result.code, result.err) == (0, ""), result
    return result.out.rstrip("\n")


def test_the_commands_migrate_a_guest(world: World, command: Command) -> None:
    source, target = world.boot(), world.receive()
    cookie = order(command, world, 0, "prepare", "web1", "--to", "tcp:host2:4444")
    source.send_to(target)
    assert order(command, world, 1, "complete-in", "web1", "--cookie", cookie) == ""
    target.monitor.execute("cont")
    assert order(command, world, 0, "complete-out", "web1") == ""
    assert source.guard is not None
    assert source.guard.process.poll() == 0, "it is gone when the command returns"
    assert not os.path.exists(source.guard.path)
    assert target.guard is not None
    target.guard.kill()
    report = check(world.disk)
    assert report.clean, describe(report)


def test_the_commands_cancel_a_migration_target_first(world: World, command: Command) -> None:
    source, target = world.boot(), world.receive()
    order(command, world, 0, "prepare", "web1", "--to", "tcp:host2:4444")
    source.send_to(target)
    assert order(command, world, 1, "complete-in", "web1", "--cancel") == ""
    assert target.guard is not None
    assert target.guard.process.poll() == 0
    assert order(command, world, 0, "complete-out", "web1", "--cancel") == ""
    assert (source.state(), source.leases()) == ("running", [("exclusive", "held")])
    source.monitor.execute("cont")
    assert source.qemu() == "running"
    assert proclocks.below_qemus(world.disk) == HELD


def test_a_cancel_waits_for_the_moment_that_qemu_needs_for_its_own(
    world: World, tmp_path: Path
) -> None:
    source = world.boot()
    # Else all is sent at once, and QEMU 7.2 aborts if it is cancelled as it inactivates its disks.
    whole = [{"capability": "x-ignore-shared", "state": False}]
    source.monitor.execute("migrate-set-capabilities", capabilities=whole)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        deaf.listen(10)
        for _ in range(10):
            source.prepare()
            source.monitor.execute("migrate", uri=f"unix:{tmp_path}/deaf")
            source.monitor.execute("migrate_cancel")
            source.cancel_out()
            assert source.state() == "running"


@pytest.mark.parametrize(
    ("words", "options", "named"),
    [
        (["-S"], [], "no -incoming"),
        (["-incoming", "defer"], [], "no -S"),
        (["-S", "-incoming", "defer"], ["--no-monitor"], "no private monitor"),
        (["-S", "-incoming", "defer", "-daemonize"], [], "told to fork"),
    ],
)
def test_a_destination_that_could_run_by_itself_is_refused(
    command: Command, words: list[str], options: list[str], named: str
) -> None:
    qemu = ["qemu-system-x86_64", "-machine", "none", *words]
    result = command("run", "--incoming", *options, "--", *qemu)
    assert result.code == 2
    assert "as a migration's destination: " in result.err
    assert named in result.err
    assert result.err.count("\n") == 1


def test_what_is_no_qemu_is_no_destination(command: Command) -> None:
    result = command("run", "--incoming", "--no-discover", "--", "/bin/true")
    assert result.code == 2
    assert "/bin/true is not QEMU" in result.err


@pytest.mark.parametrize("plugin", ["nop", "file+nop"])
def test_a_plugin_that_cannot_is_named_before_anything_is_touched(
    guards: Guards, plugin: str, world: World
) -> None:
    argv = idle_argv(world.disk, machine="pc")
    awaiting = [*argv, "-incoming", "defer"]
    spec = guards.spec(world.disk, plugin=plugin, incoming=True)
    ended = guards.start(spec, awaiting).refused()
    assert ended.code == 111
    assert "plugin nop has no migration" in ended.stderr
    assert proclocks.locks(world.disk) == []
    guard = guards.start(guards.spec(world.disk, plugin=plugin), argv).ready()
    named = "plugin nop has no migration"
    with guard.connect() as client, pytest.raises(UnsupportedError, match=named):
        client.execute("prepare-migrate", {"uri": "x"}, DEADLINE_S)


def refusal(step: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as refused:
        step()
    return refused.value


def test_steps_out_of_turn_are_refused_and_change_nothing(world: World) -> None:
    source, target = world.boot(), world.receive()
    for step in (source.complete_out, source.cancel_out):
        assert "it is running, not migrating-out" in refusal(step).desc
    assert "it is incoming, not running" in refusal(target.prepare).desc
    cookie = source.prepare()
    assert "it is migrating-out, not running" in refusal(source.prepare).desc
    assert "QEMU is running, not postmigrate" in refusal(source.complete_out).desc
    assert "not got all of the guest" in refusal(lambda: target.complete_in(cookie, 0.0)).desc
    assert (source.state(), target.state()) == ("migrating-out", "incoming")
    source.send_to(target)
    source.until("migrated")
    target.complete_in(cookie)
    assert "it is running, not incoming" in refusal(lambda: target.complete_in(cookie)).desc
    assert "it is running, not incoming" in refusal(target.cancel_in).desc
    assert "still shares it" in refusal(target.prepare).desc
    held = refusal(source.cancel_out)
    assert held.fields["exit_code"] == 110
    assert target.guard is not None
    assert f"held by guest web1 ({world.uuid}), supervisor pid {target.guard.pid}" in held.desc
    source.complete_out()
    waiting.until(lambda: target.leases() == [("exclusive", "held")], DEADLINE_S, "it is alone")
    assert target.prepare() != cookie


def test_a_cookie_that_is_not_this_migrations_is_refused(world: World) -> None:
    source = world.boot()
    replayed = source.prepare()
    source.cancel_out()
    target = world.receive()
    cookie = source.prepare()
    source.send_to(target)
    source.until("migrated")
    version, _uuid, *rest = cookie.split(":")
    others = ":".join([version, "5f2c1d3e-0000-4000-8000-00000000000a", *rest])
    for wrong, why, code in (
        ("", "no cookie of ours", 2),
        ("x" * 5000, "no cookie of ours", 2),
        (cookie.rpartition(":")[0] + ":aa.bb", "the cookie is of a guest without it", 2),
        (cookie.replace(":file:", ":vm:"), "the source's plugin is vm, here it is file", 2),
        (others, "the cookie is of guest 5f2c1d3e-", 2),
        (replayed, "not by the cookie's source", 110),
    ):
        found = refusal(partial(target.complete_in, wrong, 0.0))
        assert why in found.desc
        assert found.fields["exit_code"] == code
    assert target.state() == "incoming"
    assert proclocks.below_qemus(world.disk) == [("READ", 0, "0"), *AWAITING]
    target.complete_in(cookie)


def test_a_second_destination_is_refused_and_told_who_is_the_first(world: World) -> None:
    world.boot()
    first = world.receive()
    guards = world.hosts[0]
    argv = idle_argv(world.disk, machine="pc", extra=["-incoming", "defer"])
    ended = guards.start(guards.spec(world.disk, plugin="file", incoming=True), argv).refused()
    assert ended.code == 110
    assert first.guard is not None
    assert f"supervisor pid {first.guard.pid}" in ended.stderr


def test_a_foreign_sharer_that_got_in_is_named_and_may_leave_in_time(world: World) -> None:
    source, target = world.boot(), world.receive()
    cookie = source.prepare()
    source.send_to(target)
    source.until("migrated")
    with Locker(world.disk, kind=READ, posix=True) as virtlockd:
        assert virtlockd.held
        found = refusal(lambda: target.complete_in(cookie, 0.0))
        assert f"shared by process {virtlockd.pid} " in found.desc
        number = target.control.ask(
            "complete-migrate-in", {"cookie": cookie, "timeout_s": DEADLINE_S}
        )
    assert target.control.answer(number) == {}
    assert target.state() == "running"


def test_a_source_whose_supervisor_stands_still_holds_nobody_up_for_good(world: World) -> None:
    source, target = world.boot(), world.receive()
    cookie = source.prepare()
    source.send_to(target)
    source.until("migrated")
    assert source.guard is not None
    freeze(source.guard)
    try:
        with target.another_client() as client:
            asked = client.ask("complete-migrate-in", {"cookie": cookie})
            waiting.until(
                lambda: proclocks.below_qemus(world.disk) == [HANDED, HANDED, *AWAITING],
                DEADLINE_S,
                "it shares the disk, and waits for the source to see it",
            )
            assert refusal(target.cancel_in).fields["exit_code"] == 111
            assert client.answer(asked, DEADLINE_S) == {}
        target.monitor.execute("cont")
        assert target.qemu() == "running"
    finally:
        signal.pidfd_send_signal(source.guard.pidfd, signal.SIGCONT)
    assert refusal(source.cancel_out).fields["exit_code"] == 110
    source.complete_out()


def test_a_source_whose_supervisor_stands_still_before_is_the_owner_still(world: World) -> None:
    source, target = world.boot(), world.receive()
    cookie = source.prepare()
    assert source.guard is not None
    freeze(source.guard)
    source.send_to(target)
    target.until_qemu("paused")
    assert refusal(lambda: target.complete_in(cookie, 0.5)).fields["exit_code"] == 110
    assert proclocks.below_qemus(world.disk) == [*HELD, *AWAITING]
    signal.pidfd_send_signal(source.guard.pidfd, signal.SIGCONT)
    target.complete_in(cookie)


def test_a_complete_in_that_waits_is_ended_by_a_cancel(world: World) -> None:
    source, target = world.boot(), world.receive()
    cookie = source.prepare()
    with target.another_client() as client:
        asked = client.ask("complete-migrate-in", {"cookie": cookie, "timeout_s": 1e6})
        waiting.until(
            lambda: "complete-migrate-in is under way" in refusal(target.prepare).desc,
            DEADLINE_S,
            "another command meets it",
        )
        target.cancel_in()
        assert "it is cancelled" in refusal(lambda: client.answer(asked)).desc
    source.cancel_out()
    assert (source.state(), source.qemu()) == ("running", "running")


def test_a_copied_disk_is_the_destinations_from_the_start(world: World, command: Command) -> None:
    argv = idle_argv(world.disk, machine="pc", extra=["-incoming", "defer"])
    words = ["--incoming", "--name", "web2", "--disk", f"{world.disk},copied", "--", *argv]
    command.guest(*words)
    assert command.json("status", "web2")["leases"][0]["state"] == "held"
    assert proclocks.below_qemus(world.disk) == HELD


def test_a_destination_gives_way_to_a_signal(world: World) -> None:
    world.boot()
    target = world.receive()
    assert target.guard is not None
    target.process.send_signal(signal.SIGTERM)
    assert target.guard.wait().code == 0
    assert proclocks.below_qemus(world.disk) == HELD
    ours(world.receive())


def ours(end: End) -> None:
    assert (end.state(), end.leases()) == ("incoming", [("exclusive", "pending")])
