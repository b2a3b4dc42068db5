"""Does a guest that runs get leases and give them up? For every plugin that can."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Capability, Mode, Resource
from supervisor import rundir
from tests.conformance.capable import able, capabilities
from tests.conformance.setups import AT_ONCE
from tests.support import proclocks, waiting
from tests.support.guard import DEADLINE_S, Guards
from tests.support.pausing import Pausable
from tests.support.wire import Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from tests.conformance.setups import Setup
    from tests.support.guard import Guard

EXCLUSIVE, SHARED = Mode.EXCLUSIVE, Mode.SHARED

pluggable = pytest.mark.parametrize("manager", able(Capability.HOTPLUG), indirect=True)


def attach(guard: Guard, disk: str, mode: str = EXCLUSIVE) -> Any:
    with Wire(f"{guard.path}/control") as control:
        asked = {"type": "disk", "path": disk, "mode": mode}
        return control.execute("acquire-resource", asked)


def detach(guard: Guard, disk: str) -> Any:
    with Wire(f"{guard.path}/control") as control:
        return control.execute("release-resource", {"type": "disk", "path": disk})


def is_dead(guard: Guard) -> bool:
    return bool(select.select([guard.child_pidfd], [], [], 0)[0])


@pluggable
@pytest.mark.parametrize("mode", Mode.ALL)
def test_what_is_plugged_is_held_and_freed_when_unplugged_and_the_guest_runs_on(
    manager: Setup, guards: Guards, mode: str
) -> None:
    own, hot = manager.disk("own"), manager.disk("hot")
    guard = guards.run(own, name="plugged")
    lease = attach(guard, hot, mode)
    assert (lease["resource"], lease["mode"], lease["state"]) == (hot, mode, "held")
    assert (manager.held(own), manager.held(hot)) == ([EXCLUSIVE], [mode])
    refusal = guards.refusal(hot)
    assert (refusal.code, "held by guest plugged " in refusal.stderr) == (110, True)
    assert detach(guard, hot) == {}
    assert (manager.held(own), manager.held(hot)) == ([EXCLUSIVE], [])
    assert not is_dead(guard)
    guards.run(hot)
    assert manager.held(hot) == [EXCLUSIVE]


@pluggable
@pytest.mark.asks(AT_ONCE)
@pytest.mark.parametrize(
    ("held", "asked"), [(EXCLUSIVE, EXCLUSIVE), (EXCLUSIVE, SHARED), (SHARED, EXCLUSIVE)]
)
def test_what_is_held_elsewhere_is_not_plugged_and_nothing_changes(
    manager: Setup, guards: Guards, held: str, asked: str
) -> None:
    own, hot = manager.disk("own"), manager.disk("hot")
    holder, guard = guards.run((held, hot), name="holder"), guards.run(own)
    before = manager.facts([own, hot])
    with pytest.raises(Refused, match="held by guest holder ") as refused:
        attach(guard, hot, asked)
    assert (refused.value.wire_class, refused.value.fields["exit_code"]) == ("LeaseHeld", 110)
    assert manager.facts([own, hot]) == before
    assert not is_dead(guard)
    holder.kill()
    assert attach(guard, hot, asked)["mode"] == asked
    assert manager.held(hot) == [asked]


@pluggable
@pytest.mark.asks(SHARED)
def test_sharers_plug_and_unplug_one_disk_each_for_itself(manager: Setup, guards: Guards) -> None:
    hot = manager.disk("hot")
    first, second = guards.run(manager.disk("one")), guards.run(manager.disk("two"))
    for guard in (first, second):
        attach(guard, hot, SHARED)
    assert manager.held(hot) == [SHARED, SHARED]
    detach(first, hot)
    assert manager.held(hot) == [SHARED]
    assert guards.refusal(hot).code == 110
    detach(second, hot)
    assert manager.held(hot) == []


@pluggable
def test_what_is_plugged_already_or_not_at_all_changes_nothing(
    manager: Setup, guards: Guards
) -> None:
    own, hot = manager.disk("own"), manager.disk("hot")
    guard = guards.run(own)
    before = manager.facts([own, hot])
    with pytest.raises(Refused, match="the guest has a lease on it already"):
        attach(guard, own, EXCLUSIVE)
    with pytest.raises(Refused, match="the guest has no lease on it") as refused:
        detach(guard, hot)
    assert refused.value.fields["exit_code"] == 1
    assert manager.facts([own, hot]) == before


@pluggable
@pytest.mark.asks(AT_ONCE)
@pytest.mark.parametrize("mode", Mode.ALL)
def test_what_is_plugged_is_carried_until_the_guest_is_dead(
    manager: Setup, guards: Guards, mode: str
) -> None:
    own, hot = manager.disk("own"), manager.disk("hot")
    guard = guards.run(own)
    attach(guard, hot, mode)
    waiter = guards.start(guards.spec(hot, wait_s=DEADLINE_S))
    published = os.path.join(waiter.path, rundir.GUEST_JSON)
    waiting.until(lambda: os.path.exists(published), DEADLINE_S, "the waiter is known by name")
    signal.pidfd_send_signal(guard.child_pidfd, signal.SIGSTOP)
    assert (is_dead(guard), manager.held(hot)) == (False, [mode])
    signal.pidfd_send_signal(guard.pidfd, signal.SIGKILL)
    line = waiter.line()
    dead = is_dead(guard)
    assert line.startswith("READY "), line
    assert dead, "the waiter runs while the guest that has the disk is alive"
    assert manager.held(hot) == [EXCLUSIVE]


@pytest.mark.parametrize(
    "manager", able(Capability.HOTPLUG, without=Capability.GENERATIONS), indirect=True
)
def test_a_guest_that_is_paused_gets_leases_and_gives_them_up(
    manager: Setup, guards: Guards, require: Callable[[str], str]
) -> None:
    require("qemu-system-x86_64")
    own, hot = manager.disk("own"), manager.disk("hot")
    with Pausable(guards, guards.spec(own)) as guest:
        state = guest.pause()
        attach(guest.guard, hot)
        assert (guest.state(), manager.held(own), manager.held(hot)) == (
            "parked", [EXCLUSIVE], [EXCLUSIVE],
        )  # fmt: skip
        assert guards.refusal(hot).code == 110
        with pytest.raises(Refused, match="not the state of the pause"):
            guest.resume(state + "!")
        assert (guest.state(), guest.runs()) == ("parked", False)
        guest.resume(state)
        assert (guest.runs(), manager.held(hot)) == (True, [EXCLUSIVE])
        assert detach(guest.guard, hot) == {}
        assert (manager.held(own), manager.held(hot)) == ([EXCLUSIVE], [])


def test_of_several_plugins_those_that_take_disks_take_what_is_plugged(tmp_path: Path) -> None:
    """A guest's own lease is not theirs to change."""
    assert Capability.HOTPLUG in capabilities("vm+file")
    assert Capability.HOTPLUG not in capabilities("nop+file")
    own, hot = tmp_path / "own", tmp_path / "hot"
    for path in (own, hot):
        path.write_bytes(bytes(4096))
    leases = {"vm": {"lease_dir": str(tmp_path / "leases")}}
    with Guards(tmp_path) as guards:
        spec = guards.spec(plugin="vm+file", config=leases)
        spec.resources.append(Resource(str(own)))
        guard = guards.start(spec).ready()
        attach(guard, str(hot))
        places = [tmp_path / "leases" / spec.uuid, own, hot]
        assert [len(proclocks.locks(path)) for path in places] == [1, 1, 1]
        detach(guard, str(hot))
        assert [len(proclocks.locks(path)) for path in places] == [1, 1, 0]
