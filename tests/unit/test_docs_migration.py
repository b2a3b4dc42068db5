"""Is docs/migration-failures.md what the guard's states make it, and each row done by a test?"""

from __future__ import annotations

from lockplugins import registry
from lockplugins.contract import Capability
from supervisor.guard.lifecycle import TABLE, State
from tests.faults.migrating import DAEMON, FULL_DIRECTORY, FULL_DISK, LOCKED
from tests.support.failing import REAL
from tests.support.failure_page import COMMAND, PATH, page
from tests.support.failures import FAULTS
from tests.support.outcomes import GIVING_UP, NOBODY, PASSING, reachable
from tests.support.sources import read


def test_the_page_is_what_the_states_make_it() -> None:
    assert read(PATH) == page(), f"run: {COMMAND}"


def led_to(state: str) -> set[str]:
    """Return the states that TABLE lets `state` lead to, whatever happens."""
    found = [state]
    for old in found:
        found += {new for (known, _), (new, _) in TABLE.items() if known == old} - {*found}
    return {*found}


def test_no_state_that_an_end_can_get_into_is_without_rows() -> None:
    sources = {ends.source for ends in reachable()}
    destinations = {ends.destination for ends in reachable()} | {State.STOPPING}
    assert led_to(State.RUNNING) <= sources | {*PASSING, *GIVING_UP}
    # One that has arrived, and is alone, is the next migration's source.
    assert led_to(State.INCOMING) <= destinations | {*PASSING} | led_to(State.RUNNING)
    assert {*State.ALL} <= sources | destinations | {*PASSING, *GIVING_UP, State.ACQUIRING}


def test_a_plugin_that_gives_leases_up_migrates_by_itself() -> None:
    """The page counts on a paused guest's leases: of others docs/migration.md says the rest."""
    both = {Capability.MIGRATION, Capability.GENERATIONS}
    found = [
        name for name in registry.known() if both <= {*registry.plugin_class(name).capabilities}
    ]
    assert found == ["sanlock", "etcd"]
    assert all(f"## With {name}" in read("docs/migration.md") for name in found)


def test_everything_that_can_happen_is_done_by_a_test() -> None:
    assert {*REAL, *DAEMON, LOCKED, FULL_DISK, FULL_DIRECTORY} == set(FAULTS)


def test_there_are_never_two_owners_and_nobody_runs_but_the_owner() -> None:
    own = {State.RUNNING, State.PARKED, State.MIGRATING_OUT}
    for ends in reachable():
        assert not {ends.source, ends.destination} <= own
        assert ends.runs in {ends.owner, NOBODY}
