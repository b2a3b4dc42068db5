"""Is the kernel's list of locks believed only when it says the same twice?"""

from __future__ import annotations

import pytest

from lockplugins.kernel_locks import books


@pytest.mark.parametrize(
    ("tellings", "believed"),
    [
        ([["a"], ["a"]], ["a"]),
        ([[], []], []),
        ([["a"], ["a", "b"], ["a", "b"], ["c"], ["c"]], ["a", "b"]),
        ([["a", "b"], ["a"], ["a", "b"], ["a", "b", "b"]], ["a", "b", "b"]),
        ([], []),
    ],
)
def test_what_is_told_twice_running_is_believed(
    tellings: list[list[str]], believed: list[str]
) -> None:
    assert books.settled(iter(tellings)) == believed
