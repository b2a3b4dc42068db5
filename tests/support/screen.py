"""What does a person see on a terminal? Enough of one to tell: rows, wrapping, carriage return.

Fails on a control sequence: what it knows, the oldest terminal knows.
"""

from __future__ import annotations

import codecs
import os
import time
from typing import TYPE_CHECKING

from tests.support import waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.terminal import Terminal

DEADLINE_S = 30.0


class Screen:
    """The screen of `terminal`, as wide as that is now; it never scrolls."""

    def __init__(self, terminal: Terminal, columns: int) -> None:
        terminal.resize(24, columns)
        self._terminal = terminal
        self._columns = columns
        self._rows: list[list[str]] = [[]]
        self._column = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.seen: list[str] = []

    def resize(self, columns: int) -> None:
        """Make the window narrower; what is beyond its edge is gone."""
        self._terminal.resize(24, columns)
        self._columns = columns
        for row in self._rows:
            del row[columns:]

    def lines(self) -> list[str]:
        """Return the rows that show anything."""
        rows = ("".join(row).rstrip() for row in self._rows)
        return [row for row in rows if row]

    def until(self, shows: Callable[[list[str]], bool], why: str) -> list[str]:
        """Read until it `shows` what is wanted; returns its lines. `seen` has all lines ever."""
        end = time.monotonic() + DEADLINE_S
        while not shows(self.lines()):
            left_s = max(0.0, end - time.monotonic())
            waiting.readable(self._terminal.fileno(), left_s, f"{why}; it shows {self.lines()}")
            self._feed(os.read(self._terminal.fileno(), 1))
        return self.lines()

    def _feed(self, data: bytes) -> None:
        for character in self._decoder.decode(data):
            self._put(character)

    def _put(self, character: str) -> None:
        if character == "\r":
            self.seen += self.lines()[-1:]
            self._column = 0
        elif character == "\n":
            self._rows.append([])
        else:
            assert character.isprintable(), f"a control character: {character!r}"
            if self._column >= self._columns:
                self._rows.append([])
                self._column = 0
            row = self._rows[-1]
            row += " " * (self._column + 1 - len(row))
            row[self._column] = character
            self._column += 1
