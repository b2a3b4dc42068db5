"""Does whoever detaches say what became of a guard that could not start, or died without a word?"""

from __future__ import annotations

import signal

import pytest

from supervisor.cli import detaching, launcher
from supervisor.starting import NotStartedError


def test_a_guard_that_cannot_be_executed_is_our_fault() -> None:
    with pytest.raises(
        launcher.ExecError, match="cannot execute the guard: No such file"
    ) as caught:
        detaching._spawn(["/missing/python"], 2)
    assert caught.value.exit_code == 125


@pytest.mark.parametrize(
    ("status", "code", "how"),
    [
        (-signal.SIGKILL, 137, "was killed by signal 9"),
        (125, 125, "ended with 125"),
        (0, 111, "ended with 0"),
    ],
)
def test_a_death_without_a_word_is_never_success(status: int, code: int, how: str) -> None:
    died = detaching._died(status, "web1", "/the/log")
    assert died.exit_code == code
    assert str(died) == (
        f"cannot start guest web1: its supervisor {how} before the guest ran; see /the/log"
    )


def test_an_error_with_no_code_is_a_failure_all_the_same() -> None:
    assert NotStartedError(0, "cannot").exit_code == 111
