"""Does a guest that is paused give its leases up, and have them back if nobody had them?

For every plugin whose leases have generations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Capability, Mode
from tests.conformance.capable import able
from tests.support import waiting
from tests.support.guard import DEADLINE_S
from tests.support.pausing import Pausable
from tests.support.wire import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.setups import Setup
    from tests.support.guard import Guards

pytestmark = pytest.mark.parametrize("manager", able(Capability.GENERATIONS), indirect=True)


@pytest.mark.parametrize("mode", Mode.ALL)
def test_a_paused_guest_has_no_lease_and_has_it_back(
    manager: Setup, guards: Guards, require: Callable[[str], str], mode: str
) -> None:
    require("qemu-system-x86_64")
    disk = manager.disk("disk")
    with Pausable(guards, guards.spec((mode, disk))) as guest:
        held = manager.held(disk)
        assert held == [mode]
        for _ in range(2):
            state = guest.pause()
            assert ":released=" in state
            assert (guest.state(), manager.held(disk)) == ("parked", [])
            guest.resume(state)
            assert (guest.state(), guest.runs(), manager.held(disk)) == ("running", True, held)
        assert guards.refusal(disk).code == 110


def test_who_had_the_lease_of_a_paused_guest_ends_it(
    manager: Setup, guards: Guards, require: Callable[[str], str]
) -> None:
    require("qemu-system-x86_64")
    disk = manager.disk("disk")
    with Pausable(guards, guards.spec(disk)) as guest:
        state = guest.pause()
        other = guards.run(disk)
        with pytest.raises(Refused) as refused:
            guest.resume(state)
        assert (refused.value.wire_class, refused.value.fields["exit_code"]) == ("LeaseLost", 112)
        waiting.gone(guest.guard.child_pidfd, DEADLINE_S)
        assert guest.guard.wait().code == 112
        assert manager.held(disk) == [Mode.EXCLUSIVE]
        assert other.process.poll() is None


def test_nobody_has_the_lease_of_a_paused_guest_that_is_dead(
    manager: Setup, guards: Guards, require: Callable[[str], str]
) -> None:
    require("qemu-system-x86_64")
    disk = manager.disk("disk")
    with Pausable(guards, guards.spec(disk)) as guest:
        guest.pause()
        guest.guard.kill()
    assert manager.held(disk) == []
    guards.run(disk)
