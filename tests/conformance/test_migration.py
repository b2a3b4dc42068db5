"""Do a guest's leases go along with it, or stay, and nobody gets in? For every plugin that can.

The machines have no processor and no disk: what migrates is a name, what is handed over are leases.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Capability, Mode
from tests.conformance.capable import able
from tests.conformance.conftest import PluginGuards
from tests.support import waiting
from tests.support.guard import DEADLINE_S
from tests.support.idle_ends import End
from tests.support.qemu import idle_argv
from tests.support.wire import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conformance.setups import Setup
    from tests.support.guard import Guards

EXCLUSIVE, SHARED = Mode.EXCLUSIVE, Mode.SHARED

pytestmark = pytest.mark.parametrize("manager", able(Capability.MIGRATION), indirect=True)


class Ends:
    """A guest with a disk of its own and a shared one, that runs here and is awaited there."""

    def __init__(self, manager: Setup, here: Guards, there: Guards, uri: str) -> None:
        self.manager, self.uri, self.strangers = manager, uri, here
        self.uuid = str(uuid.uuid4())
        self.own, self.shared = manager.disk("own"), manager.disk("shared")
        leases = [(EXCLUSIVE, self.own), (SHARED, self.shared)]
        self.source = End(here, leases, None, self.uuid)
        self.source.monitor.execute("cont")
        self.cookie = self.source.order("prepare-migrate", uri=uri)["cookie"]
        self.target = End(there, leases, uri, self.uuid)

    def nobody_gets_in(self) -> None:
        for mode in Mode.ALL:
            assert self.strangers.refusal((mode, self.own)).code == 110
        assert self.strangers.refusal(self.shared).code == 110

    def alone(self, end: End) -> None:
        """See that what is left of both is one guest, the only holder, as if nothing had been."""
        waiting.until(
            lambda: self.manager.held(self.own) == [EXCLUSIVE], DEADLINE_S, "it is the sole holder"
        )
        assert set(self.manager.held(self.shared)) == {SHARED}  # the dead may count, too
        assert end.state() == "running"
        waiting.until(
            lambda: end.leases() == {(EXCLUSIVE, "held"), (SHARED, "held")}, DEADLINE_S, "it knows"
        )
        self.nobody_gets_in()

    def close(self) -> None:
        self.source.close()
        self.target.close()


@pytest.fixture
def ends(
    manager: Setup, guards: Guards, tmp_path: Path, require: Callable[[str], str]
) -> Iterator[Ends]:
    require("qemu-system-x86_64")
    (tmp_path / "there").mkdir()
    with PluginGuards(tmp_path / "there", manager) as there:
        made = Ends(manager, guards, there, f"unix:{tmp_path}/migration")
        yield made
        made.close()


def test_the_cookie_is_one_short_line(ends: Ends) -> None:
    assert isinstance(ends.cookie, str)
    assert ends.cookie.isascii()
    assert ends.cookie.isprintable()
    assert 0 < len(ends.cookie) < 4096


def test_the_leases_go_along(ends: Ends) -> None:
    source, target = ends.source, ends.target
    assert (source.state(), target.state()) == ("migrating-out", "incoming")
    with pytest.raises(Refused) as refused:  # the source owns still
        target.order("complete-migrate-in", cookie=ends.cookie, timeout_s=0)
    assert refused.value.fields["exit_code"] in {110, 111}
    ends.nobody_gets_in()
    source.migrate(ends.uri)
    ends.nobody_gets_in()
    assert target.order("complete-migrate-in", cookie=ends.cookie) == {}
    target.monitor.execute("cont")
    assert (source.state(), target.state()) == ("migrated", "running")
    ends.nobody_gets_in()
    with pytest.raises(Refused):  # it has lost: never again its
        source.order("complete-migrate-out", cancel=True)
    assert source.order("complete-migrate-out") == {}
    assert source.guard.wait().code == 0
    ends.alone(target)
    assert ends.manager.held(ends.shared) == [SHARED]


@pytest.mark.parametrize("arrived", [False, True])
def test_the_leases_stay(ends: Ends, *, arrived: bool) -> None:
    source, target = ends.source, ends.target
    if arrived:
        source.migrate(ends.uri)
        with pytest.raises(Refused):  # the destination is there still
            source.order("complete-migrate-out", cancel=True)
    ends.nobody_gets_in()
    assert target.order("complete-migrate-in", cancel=True) == {}
    assert target.guard.wait().code == 0
    assert ends.strangers.refusal(ends.own).code == 110  # a sharer would have to be waited for
    assert source.order("complete-migrate-out", cancel=True) == {}
    if arrived:
        source.monitor.execute("cont")
    ends.alone(source)
    assert ends.manager.held(ends.shared) == [SHARED]


def test_a_second_destination_and_another_cookie_are_refused(ends: Ends, tmp_path: Path) -> None:
    leases = [(EXCLUSIVE, ends.own), (SHARED, ends.shared)]
    argv = idle_argv(extra=["-incoming", "defer"])
    with PluginGuards(tmp_path / "third", ends.manager) as third:
        spec = third.spec(*leases, name="web1", uuid=ends.uuid, incoming=True)
        assert third.start(spec, argv).refused().code == 110
    ends.source.migrate(ends.uri)
    before = ends.manager.facts([ends.own, ends.shared])
    for cookie in (
        "",
        "lock-supervisor-1",
        ends.cookie.replace(ends.uuid, str(os.urandom(4).hex())),
    ):
        with pytest.raises(Refused) as refused:
            ends.target.order("complete-migrate-in", cookie=cookie)
        assert refused.value.fields["exit_code"] == 2
    assert ends.manager.facts([ends.own, ends.shared]) == before
    assert (ends.source.state(), ends.target.state()) == ("migrated", "incoming")


def test_the_source_that_is_killed_leaves_the_leases_to_the_destination_that_owns(
    ends: Ends,
) -> None:
    ends.source.migrate(ends.uri)
    ends.target.order("complete-migrate-in", cookie=ends.cookie)
    ends.source.guard.kill()
    ends.alone(ends.target)
