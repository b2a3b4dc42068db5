"""Whatever the two ends and their deaths come to, in whatever order: one owner, with fresh memory?

A model that knows no locks: who may run, who has run, and whose memory is the
disks' own. What the plugin grants must fit it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from lockplugins.contract import LockError
from tests.support.ends import NONCE, End, image
from tests.support.locking import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future


class Ends:
    """A source that runs its guest, and a destination that waits for it.

    `source_may` and `target_may`: who may run. A destination gets the guest's
    memory when the source has stopped for good; it is fresh until either runs.
    """

    def __init__(self, disk: Path) -> None:
        self.source, self.target = End(), End()
        self.source.own(disk)
        self.target.wait(disk)
        self.told = self.source.side.prepare(NONCE)
        self.source_may, self.target_may, self.handed = True, False, False
        self.source_lives = self.target_lives = True
        self.source_has_run_on = self.target_has_run = False
        self.lost: Future[bool] | None = None

    def hand_over(self) -> None:
        if self.source_lives and self.source_may and not self.handed:
            self.handed, self.source_may = True, False
            self.source.hand_over()
            self.lost = self.source.lost

    def take_back(self) -> None:
        if not self.source_lives or not self.handed:
            return
        if self.lost is not None and not self.target_lives:
            self.lost.result(DEADLINE_S)  # as soon as it can be told
        self.source.side.take_back()
        assert not self.target_may, "two owners"
        assert not self.target_has_run, "the source's memory is stale"
        self.source_may = self.source_has_run_on = True

    def complete_in(self) -> None:
        if not self.target_lives or not self.handed or self.target_may:
            return
        self.target.complete_in(NONCE, self.told)
        assert not self.source_may, "two owners"
        assert not self.source_has_run_on, "the destination's memory is stale"
        self.target_may = self.target_has_run = True

    def end_source(self) -> None:
        if self.source_lives:
            self.source.die()
            self.source_lives = self.source_may = False

    def end_target(self) -> None:
        if self.target_lives:
            self.target.die()
            self.target_lives = self.target_may = False


STEPS: tuple[Callable[[Ends], None], ...] = (
    Ends.hand_over, Ends.take_back, Ends.complete_in, Ends.end_source, Ends.end_target,
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(st.sampled_from(STEPS), max_size=8))
def test_there_is_one_owner_and_its_memory_is_fresh(steps: list[Callable[[Ends], None]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        ends = Ends(image(Path(os.path.join(directory, "disk"))))
        try:
            for step in steps:
                try:
                    step(ends)
                except LockError:
                    continue  # refused: nothing has changed, as the next ones show
        finally:
            ends.end_source()
            ends.end_target()
