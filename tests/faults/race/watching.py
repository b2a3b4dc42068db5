"""What has the judge written down so far? Starts him, and listens to him on a thread."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from tests.faults.race import verdict
from tests.support import waiting
from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Self

DEADLINE_S = 30.0


class Watching:
    """The judge's events; a context: he ends, and all of them are there, when it is left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[dict[str, Any]] = []
        self._alive: dict[str, int] = {}  # the pidfd of who has begun, and not ended
        self._begun: set[str] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._judge = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.race.judge", str(self.path)],
            cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        waiting.until(lambda: self.events, DEADLINE_S, "the judge is there")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._judge.stdin is not None
        assert self._judge.stdout is not None
        self._judge.stdin.close()
        self._judge.wait(DEADLINE_S)
        self._thread.join(DEADLINE_S)
        self._judge.stdout.close()

    def _listen(self) -> None:
        assert self._judge.stdout is not None
        for line in self._judge.stdout:
            event = json.loads(line)
            with self._lock:
                self.events.append(event)
                self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        run = event["run"]
        if event["event"] == "begin":
            self._begun.add(run)
            try:
                self._alive[run] = os.pidfd_open(event["pid"])
            except ProcessLookupError:
                return  # its end comes next
        elif event["event"] == "end" and run in self._alive:
            os.close(self._alive.pop(run))

    def runs(self) -> list[verdict.Run]:
        with self._lock:
            return verdict.runs_of(event for event in self.events if event["run"])

    def alive(self) -> list[str]:
        """Return the names of who runs now, as far as is known."""
        with self._lock:
            return list(self._alive)

    def has_begun(self, run: str) -> bool:
        return run in self._begun

    def signal(self, run: str, number: signal.Signals) -> bool:
        """Send a signal to a guest; False if it is dead."""
        with self._lock:
            if run not in self._alive:
                return False
            try:
                signal.pidfd_send_signal(self._alive[run], number)
            except ProcessLookupError:
                return False
            return True
