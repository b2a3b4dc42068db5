"""Is an answer the same from a copy of this process, and is one that hangs given up?"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Holder, LeaseHeldError, LockError, Mode, Resource
from supervisor.discovery.errors import DiscoveryError
from supervisor.doctor.apart import answer

if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn

SOON_S, LATE_S = 0.2, 30.0


def test_values_come_as_they_are() -> None:
    found = answer("it", lambda: [Resource(f"/{n}", Mode.SHARED) for n in range(20_000)], LATE_S)
    assert [resource.path for resource in found] == [f"/{n}" for n in range(20_000)]
    assert found[0].mode == Mode.SHARED
    assert answer("it", os.getpid, LATE_S) != os.getpid()


@pytest.mark.parametrize(
    "error",
    [
        DiscoveryError("find", "it", "because", "so"),
        LeaseHeldError("acquire", "it", "held", "wait", Holder(Mode.SHARED, "somebody", 3)),
    ],
)
def test_refusals_come_as_they_are(error: LockError) -> None:
    def refuse() -> NoReturn:
        raise error

    with pytest.raises(type(error)) as raised:
        answer("it", refuse, LATE_S)
    assert (str(raised.value), raised.value.exit_code) == (str(error), error.exit_code)
    assert raised.value.fields() == error.fields()


def test_who_does_not_answer_is_given_up_and_ended(tmp_path: Path) -> None:
    def hang() -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        signal.pause()

    with pytest.raises(LockError, match=r"cannot find it: no answer within 0\.2 s; see which"):
        answer("it", hang, SOON_S)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_fault_is_no_answer() -> None:
    with pytest.raises(EOFError):
        answer("it", lambda: os._exit(3), LATE_S)
