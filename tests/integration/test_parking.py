"""Does a guest stand still when it is told to, and is it refused where that makes no sense?"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import proclocks, waiting
from tests.support.guard import DEADLINE_S
from tests.support.pausing import Pausable
from tests.support.wire import Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.guard import Guards

HELD = [("WRITE", 0, "0")]
ANOTHER = "5f2c1d3e-0000-4000-8000-00000000001e"
INCOMING = ("-incoming", "defer")


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 16))
    return str(path)


@pytest.fixture
def guest(guards: Guards, disk: str, require: Callable[[str], str]) -> Iterator[Pausable]:
    require("qemu-system-x86_64")
    with Pausable(guards, guards.spec(disk)) as started:
        yield started


def refusal(wire: Wire, command: str, **arguments: object) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        wire.execute(command, arguments)
    return refused.value.wire_class, refused.value.desc


def test_everybody_hears_of_a_pause_and_of_its_end(guest: Pausable) -> None:
    with Wire(f"{guest.guard.path}/control") as other:
        state = guest.pause()
        assert other.event("GUEST_PARKED")["data"] == {"state": state}
        assert guest.control.execute("query-status")["parked"] == state
        guest.resume(state)
        assert other.event("GUEST_RESUMED")["data"] == {}
        assert guest.control.execute("query-status")["parked"] is None


@pytest.mark.parametrize("given", ["nothing", "garbage", "another guest's", "replayed"])
def test_only_the_state_of_this_pause_ends_it(guest: Pausable, given: str) -> None:
    earlier = guest.pause()
    guest.resume(earlier)
    state = guest.pause()
    assert state != earlier
    wrong = {
        "nothing": None,
        "garbage": "leases-kept",
        "another guest's": state.replace(guest.guard.spec.uuid, ANOTHER),
        "replayed": earlier,
    }[given]
    kind, said = refusal(guest.control, "resume-guest", state=wrong)
    assert kind == "Config"
    assert "not the state of the pause it is in" in said
    assert (guest.state(), guest.runs()) == ("parked", False)
    guest.resume(state)
    assert guest.runs()


def test_a_stranger_who_has_it_run_again_changes_its_state_alone(
    guest: Pausable, disk: str
) -> None:
    state = guest.pause()
    guest.stranger.execute("cont")
    guest.control.event("GUEST_RESUMED")
    assert (guest.state(), guest.runs()) == ("running", True)
    assert proclocks.bytes_locked(disk) == HELD
    kind, said = refusal(guest.control, "resume-guest", state=state)
    assert (kind, "it is running, not parked" in said) == ("WrongState", True)
    assert guest.pause() != state


def test_a_guest_that_a_stranger_has_stopped_can_be_paused(guest: Pausable) -> None:
    guest.stranger.execute("stop")
    assert guest.state() == "running"
    guest.resume(guest.pause())
    assert guest.runs()


def test_a_paused_guest_is_not_paused_again(guest: Pausable) -> None:
    state = guest.pause()
    kind, said = refusal(guest.control, "pause-guest")
    assert (kind, "it is parked, not running" in said) == ("WrongState", True)
    guest.resume(state)


def test_a_paused_guest_gets_and_gives_up_leases(guest: Pausable, tmp_path: Path) -> None:
    guest.pause()
    (tmp_path / "hot").write_bytes(bytes(1 << 16))
    asked = {"path": str(tmp_path / "hot")}
    guest.control.execute("acquire-resource", asked)
    assert proclocks.bytes_locked(tmp_path / "hot") == HELD
    guest.control.execute("release-resource", asked)
    assert proclocks.locks(tmp_path / "hot") == []


def test_a_paused_guest_that_is_to_stop_is_not_waited_for(guest: Pausable, disk: str) -> None:
    guest.pause()
    assert guest.control.execute("stop-guest", {"timeout_s": None})["via"] == "SIGTERM"
    waiting.gone(guest.guard.child_pidfd, DEADLINE_S)
    guest.guard.wait()
    assert proclocks.locks(disk) == []


def test_a_guest_that_is_to_stop_is_not_paused(guest: Pausable) -> None:
    guest.control.execute("stop-guest", {"timeout_s": None})
    kind, said = refusal(guest.control, "pause-guest")
    assert (kind, "it is stopping, not running" in said) == ("WrongState", True)
    assert guest.runs()


def test_a_guest_that_is_to_stop_while_it_is_being_paused_runs_on(guest: Pausable) -> None:
    path = f"{guest.guard.path}/control"
    signal.pidfd_send_signal(guest.guard.child_pidfd, signal.SIGSTOP)
    pausing = guest.control.ask("pause-guest")
    with Wire(path) as stopper, Wire(path) as other:
        waiting.until(
            lambda: "pause-guest is under way" in refusal(other, "pause-guest")[1],
            DEADLINE_S,
            "QEMU has been told to stop",
        )
        stopping = stopper.ask("stop-guest", {"timeout_s": None})
        other.execute("query-child")
        signal.pidfd_send_signal(guest.guard.child_pidfd, signal.SIGCONT)
        with pytest.raises(Refused, match="it is to end by now"):
            guest.control.answer(pausing)
        assert stopper.answer(stopping)["via"] == "power button"
    assert guest.state() == "stopping"
    waiting.until(guest.runs, DEADLINE_S, "it runs, to see its power button")


def test_a_guest_that_migrates_is_not_paused_and_a_paused_one_does_not_migrate(
    guest: Pausable,
) -> None:
    guest.control.execute("prepare-migrate", {"uri": "tcp:host2:4444"})
    kind, said = refusal(guest.control, "pause-guest")
    assert (kind, "it is migrating-out, not running" in said) == ("WrongState", True)
    assert guest.runs()
    guest.control.execute("complete-migrate-out", {"cancel": True})
    state = guest.pause()
    kind, said = refusal(guest.control, "prepare-migrate", uri="tcp:host2:4444")
    assert (kind, "it is parked, not running" in said) == ("WrongState", True)
    guest.resume(state)


def test_a_guest_that_is_awaited_is_not_paused(
    guards: Guards, disk: str, require: Callable[[str], str]
) -> None:
    require("qemu-system-x86_64")
    spec = guards.spec(disk, incoming=True)
    with Pausable(guards, spec, runs=False, extra=INCOMING) as awaited:
        kind, said = refusal(awaited.control, "pause-guest")
        assert (kind, "it is incoming, not running" in said) == ("WrongState", True)
        assert awaited.state() == "incoming"


def test_a_guest_without_a_monitor_cannot_be_paused(guards: Guards) -> None:
    with Wire(f"{guards.run().path}/control") as control:
        for command in ("pause-guest", "resume-guest"):
            kind, said = refusal(control, command)
            assert (kind, "no private monitor" in said) == ("Unsupported", True)
        assert control.execute("query-status")["state"] == "running"


def test_a_guest_that_holds_nothing_can_be_paused(
    guards: Guards, require: Callable[[str], str]
) -> None:
    require("qemu-system-x86_64")
    with Pausable(guards, guards.spec(plugin="nop")) as guest:
        state = guest.pause()
        assert state.isprintable()
        assert state.isascii()
        guest.resume(state)
        assert guest.runs()
