"""Is a ^C an end without a traceback, however early it comes?

strace(1) sends it as a file of ours is opened to be imported, which is when it came.
"""

from __future__ import annotations

import importlib.util
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.command import PROGRAM
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.command import Command

RUN = ("run", "--plugin", "nop", "--no-discover", "--", "/bin/true")


@pytest.mark.parametrize("module", ["supervisor/cli/main", "supervisor/guard/main"])
def test_who_is_interrupted_as_it_starts_ends_without_a_word(
    module: str, command: Command, require: Callable[[str], str]
) -> None:
    assert command(*RUN).code == 0
    compiled = importlib.util.cache_from_source(f"{CHECKOUT}/{module}.py")
    ended = subprocess.run(
        [require("strace"), "-f", "-qq", "-o", "/dev/null", "-e", "trace=openat", "-P", compiled,
         "-e", "inject=openat:signal=SIGINT:when=1", PROGRAM, *RUN],
        env=command.env, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, b"", b"")
