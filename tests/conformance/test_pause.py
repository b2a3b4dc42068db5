"""Does a guest that is paused keep its leases? For every plugin that excludes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Mode
from tests.conformance.setups import KEPT
from tests.support.pausing import Pausable

pytestmark = pytest.mark.asks(KEPT)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.setups import Setup
    from tests.support.guard import Guards


@pytest.mark.parametrize("mode", Mode.ALL)
def test_nobody_gets_the_lease_of_a_guest_that_is_paused(
    manager: Setup, guards: Guards, require: Callable[[str], str], mode: str
) -> None:
    require("qemu-system-x86_64")
    disk = manager.disk("disk")
    with Pausable(guards, guards.spec((mode, disk))) as guest:
        held = manager.held(disk)
        assert held == [mode]
        state = guest.pause()
        assert state.endswith(":leases-kept")
        assert (guest.state(), guest.runs(), manager.held(disk)) == ("parked", False, held)
        assert guards.refusal(disk).code == 110
        guest.resume(state)
        assert (guest.state(), guest.runs(), manager.held(disk)) == ("running", True, held)
        assert guards.refusal(disk).code == 110


def test_death_frees_the_lease_of_a_guest_that_is_paused(
    manager: Setup, guards: Guards, require: Callable[[str], str]
) -> None:
    require("qemu-system-x86_64")
    disk = manager.disk("disk")
    with Pausable(guards, guards.spec(disk)) as guest:
        guest.pause()
        guest.guard.kill()
    assert manager.held(disk) == []
    guards.run(disk)
