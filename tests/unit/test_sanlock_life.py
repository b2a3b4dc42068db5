"""Does a host's sleep only ever make a proof's end earlier?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockplugins.sanlock.life import Sleep


def test_before_anything_was_read_the_host_may_have_slept_at_any_time() -> None:
    sleep = Sleep()
    sleep.note(100.0, 50.0)
    assert sleep.before(99.0) == 0.0
    assert sleep.before(100.0) == 50.0


def test_what_was_renewed_before_a_sleep_ends_as_if_it_had_not_been() -> None:
    sleep = Sleep()
    sleep.note(100.0, 0.0)
    sleep.note(110.0, 3600.0)
    assert sleep.before(105.0) == 0.0
    assert sleep.before(111.0) == 3600.0


@pytest.mark.parametrize("forgotten", [99.0, 100.0, 105.0])
def test_what_is_needed_is_not_forgotten(forgotten: float) -> None:
    sleep = Sleep()
    sleep.note(100.0, 1.0)
    sleep.note(110.0, 2.0)
    before = sleep.before(forgotten)
    sleep.forget(forgotten)
    assert sleep.before(forgotten) == before
    assert sleep.before(110.0) == 2.0


@given(
    st.lists(st.tuples(st.floats(0.001, 60), st.floats(0, 100)), min_size=1, max_size=20),
    st.floats(0, 1),
)
def test_never_more_than_it_had_slept_by_then(steps: list[tuple[float, float]], at: float) -> None:
    """Readings `gap` apart, the host asleep for some time within each gap."""
    sleep, now, slept = Sleep(), 0.0, 0.0
    truth = [(0.0, 0.0)]
    for gap, asleep in steps:
        now, slept = now + gap, slept + asleep
        truth.append((now, slept))
        sleep.note(now, slept)
    instant = at * now
    least = max(amount for when, amount in truth if when <= instant)
    assert sleep.before(instant) <= least
