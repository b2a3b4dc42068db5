"""Is the guest's life whole? Every state x event has an answer, and every life ends in order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.guard.lifecycle import PUBLIC_STATE, TABLE, Action, Event, State
from supervisor.guard.supervise import Supervisor

# cli.md's states that a guard can be in.
PUBLISHED = {
    "acquiring", "acquired", "running", "parked", "incoming", "migrating-out", "migrated",
    "stopping",
}  # fmt: skip
# Proven dead, or told to die: what is lost then changes nothing any more.
TOO_LATE = (State.FENCING, State.RELEASING, State.ENDED)
BEFORE_RELEASE = [state for state in State.ALL if state not in (State.RELEASING, State.ENDED)]
NOT_FENCED = [state for state in State.ALL if state not in TOO_LATE]


class Nobody:
    """Stands for what a supervisor that does nothing never uses."""

    def __getattr__(self, _name: str) -> Nobody:
        return self

    def __call__(self) -> None: ...


def test_every_pair_has_an_answer_and_no_pair_is_made_up() -> None:
    assert set(TABLE) == {(state, event) for state in State.ALL for event in Event.ALL}
    assert {state for state, _ in TABLE.values()} <= set(State.ALL)
    assert {action for _, action in TABLE.values()} == set(Action.ALL)


def test_the_supervisor_can_do_every_action() -> None:
    nobody: Any = Nobody()
    supervisor = Supervisor(nobody, nobody, nobody)
    assert set(supervisor._actions) == set(Action.ALL)
    assert all(callable(action) for action in supervisor._actions.values())


def test_no_state_is_a_dead_end_but_the_last() -> None:
    reaches = {State.ENDED}
    for _ in State.ALL:
        reaches |= {state for (state, _), (after, _) in TABLE.items() if after in reaches}
    assert reaches == set(State.ALL)
    assert {TABLE[State.ENDED, event] for event in Event.ALL} == {(State.ENDED, Action.NOTHING)}


@pytest.mark.parametrize("state", BEFORE_RELEASE)
def test_a_dead_guest_is_released_whatever_was_under_way(state: str) -> None:
    assert TABLE[state, Event.DEAD] == (State.RELEASING, Action.RELEASE)


@pytest.mark.parametrize("state", NOT_FENCED)
@pytest.mark.parametrize("event", [Event.LOST, Event.FAILED])
def test_a_lost_lease_or_a_failure_fences_whatever_was_under_way(state: str, event: str) -> None:
    assert TABLE[state, event] == (State.FENCING, Action.FENCE)


@pytest.mark.parametrize("state", [State.ACQUIRING, State.ACQUIRED])
def test_before_go_a_wish_to_stop_needs_no_patience(state: str) -> None:
    assert TABLE[state, Event.STOP] == (State.FENCING, Action.FENCE)


@pytest.mark.parametrize("state", [State.LAUNCHING, State.RUNNING, State.PARKED])
def test_after_go_a_guest_gets_time_to_stop_and_no_more(state: str) -> None:
    assert TABLE[state, Event.STOP] == (State.STOPPING, Action.TIME_STOP)
    assert TABLE[State.STOPPING, Event.STOP] == (State.STOPPING, Action.NOTHING)
    assert TABLE[State.STOPPING, Event.INSIST] == (State.FENCING, Action.FENCE)


def test_a_destination_is_announced_when_it_is_watched_and_runs_when_it_owns() -> None:
    arriving = [Event.LEASED, Event.GO, Event.RECEIVING, Event.UP, Event.ARRIVED]
    assert walked(arriving[:-1]) == (
        State.INCOMING,
        [Action.OFFER, Action.LAUNCH, Action.RECEIVE, Action.ANNOUNCE],
    )
    assert walked(arriving)[0] == State.RUNNING
    assert TABLE[State.INCOMING, Event.CANCELLED] == (State.FENCING, Action.FENCE)


@pytest.mark.parametrize("state", [State.MIGRATING_OUT, State.MIGRATED])
def test_a_source_ends_when_it_is_not_needed_and_runs_when_it_owns_again(state: str) -> None:
    assert TABLE[state, Event.AWAY] == (State.FENCING, Action.FENCE)
    assert TABLE[state, Event.CANCELLED] == (State.RUNNING, Action.NOTHING)


def test_a_guest_that_runs_is_parked_and_runs_again() -> None:
    assert TABLE[State.RUNNING, Event.PARKED] == (State.PARKED, Action.NOTHING)
    assert TABLE[State.PARKED, Event.RESUMED] == (State.RUNNING, Action.NOTHING)


def test_a_guest_gives_its_leases_up_only_when_it_stands_still() -> None:
    assert TABLE[State.RUNNING, Event.PARKING] == (State.PARKING, Action.NOTHING)
    assert TABLE[State.PARKING, Event.PARKED] == (State.UNLEASED, Action.NOTHING)
    assert TABLE[State.UNLEASED, Event.RESUMED] == (State.RUNNING, Action.NOTHING)
    into = {state for (state, _), (after, _) in TABLE.items() if after == State.UNLEASED}
    assert into == {State.PARKING, State.UNLEASED}


@pytest.mark.parametrize("state", [State.PARKING, State.UNLEASED])
def test_a_guest_that_may_not_run_cannot_be_asked_to_stop(state: str) -> None:
    assert TABLE[state, Event.STOP] == (State.FENCING, Action.FENCE)


@pytest.mark.parametrize("event", [Event.PARKING, Event.PARKED, Event.RESUMED])
def test_nobody_else_is_parked_or_resumed(event: str) -> None:
    asked = {State.RUNNING, State.PARKED, State.PARKING, State.UNLEASED}
    moved = {state for state in State.ALL if TABLE[state, event] != (state, Action.NOTHING)}
    assert moved < asked


@pytest.mark.parametrize("event", [Event.PREPARED, Event.HANDED, Event.ARRIVED, Event.AWAY])
def test_a_parked_guest_does_not_migrate(event: str) -> None:
    assert TABLE[State.PARKED, event] == (State.PARKED, Action.NOTHING)


@pytest.mark.parametrize("event", [Event.HANDED, Event.ARRIVED, Event.AWAY, Event.CANCELLED])
def test_who_does_not_migrate_hears_nothing_of_migrations(event: str) -> None:
    assert TABLE[State.RUNNING, event] == (State.RUNNING, Action.NOTHING)


def test_a_destination_that_is_to_stop_before_it_is_up_is_watched_all_the_same() -> None:
    events = [Event.LEASED, Event.GO, Event.STOP, Event.RECEIVING]
    state, done = walked(events)
    assert (state, done[-1]) == (State.STOPPING, Action.RECEIVE)


def test_every_state_has_a_published_name() -> None:
    assert set(PUBLIC_STATE) == set(State.ALL)
    assert set(PUBLIC_STATE.values()) == PUBLISHED


def walked(events: list[str]) -> tuple[str, list[str]]:
    """Return the state after `events`, and every action done on the way."""
    state, done = State.ACQUIRING, []
    for event in events:
        state, action = TABLE[state, event]
        done.append(action)
    return state, [action for action in done if action != Action.NOTHING]


USUAL = (
    Event.LEASED, Event.GO, Event.UP, Event.STOP, Event.INSIST, Event.DEAD, Event.RELEASED,
)  # fmt: skip


@st.composite
def lives(draw: st.DrawFn) -> list[str]:
    """Begin as a usual life, of some length, and let anything happen in between.

    A child says but once that it executes: by the end of its report.
    """
    events = list(USUAL[: draw(st.integers(0, len(USUAL)))])
    for event in draw(st.lists(st.sampled_from(Event.ALL), max_size=10)):
        events.insert(draw(st.integers(0, len(events))), event)
    for once in (Event.RECEIVING, Event.UP):
        first = events.index(once) if once in events else 0
        events = events[: first + 1] + [e for e in events[first + 1 :] if e != once]
    return events


@given(lives())
def test_no_life_does_anything_twice_or_out_of_order(events: list[str]) -> None:
    _, done = walked(events)
    assert len(done) == len(set(done))
    order = [Action.OFFER, Action.LAUNCH, Action.ANNOUNCE]
    assert [action for action in done if action in order] == order[: len(set(done) & set(order))]
    for action in (Action.LAUNCH, Action.ANNOUNCE, Action.TIME_STOP, Action.OFFER):
        assert Action.FENCE not in done or action not in done[done.index(Action.FENCE) :]
        assert Action.RELEASE not in done or action not in done[done.index(Action.RELEASE) :]
    assert Action.FINISH not in done or Action.RELEASE in done[: done.index(Action.FINISH)]


@given(lives())
def test_nothing_is_released_before_the_kernel_says_dead(events: list[str]) -> None:
    state, done = walked([event for event in events if event != Event.DEAD])
    assert state in BEFORE_RELEASE
    assert not {Action.RELEASE, Action.FINISH} & set(done)


@given(lives(), lives())
def test_whatever_happens_death_and_release_end_it(before: list[str], between: list[str]) -> None:
    between = [event for event in between if event != Event.RELEASED]
    state, done = walked([*before, Event.DEAD, *between, Event.RELEASED])
    assert state == State.ENDED
    assert done.count(Action.RELEASE) == done.count(Action.FINISH) == 1


@given(lives(), lives())
def test_once_a_lease_is_lost_the_guest_is_fenced_or_dead(
    before: list[str], after: list[str]
) -> None:
    state, done = walked([*before, Event.LOST])
    assert state in TOO_LATE
    assert {Action.FENCE, Action.RELEASE} & set(done)
    state, done = walked([*before, Event.LOST, *after])
    assert state in TOO_LATE
    assert done.count(Action.FENCE) <= 1
