"""Does nobody get between two ends, thousands of times over, by any lock on bytes 0 and 2?"""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING

import pytest

from tests.support import proclocks
from tests.support.ends import ALONE, NONCE, Host
from tests.support.locking import DEADLINE_S, is_free, on_a_thread
from tests.support.moving import Intruder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.slow
def test_thousands_of_hand_overs_and_no_stranger_gets_in(
    tmp_path: Path, rounds: Callable[[int, int], int], measured: Callable[[str, str], None]
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    count = rounds(300, 20_000)
    with Host() as one, Host() as other:
        here = one.end()
        here.own(disk)
        with Intruder(str(disk)) as intruder:
            for host in islice(cycle((other, one)), count):
                there = host.end()
                there.wait(disk, wait_until=float("inf"))  # a sharer that tries has byte 2 at times
                told = here.prepare(NONCE)
                here.hand_over()
                there.complete_in(NONCE, told)
                assert here.has_lost()
                sole = on_a_thread(there.become_sole)
                here.die()
                sole.result(DEADLINE_S)
                assert not is_free(disk)
                here = there
            assert intruder.got_in() == 0
        assert proclocks.below_qemus(disk) == ALONE
        here.die()
    words = f"{intruder.tried:,} tries by strangers to get in between: none did"
    measured("migration", f"{count:,} hand-overs between two processes, {words}")
