"""How does docs/errors.md look? A table for each subject: what was provoked, what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.errors.excused import EXCUSED
from tests.support.errors.provoking import SUBJECTS
from tests.support.errors.sites import sites

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.errors.provoking import Line

PATH = "docs/errors.md"
COMMAND = f"python -m tests.support.errors > {PATH}"
_HEAD = f"""<!-- Written by the tests that provoke each line: {COMMAND} -->
# Every error, and what to do

One line on standard error, `lock-supervisor: ` and then what is listed here, in the shape *cannot
do this to that: the reason; what to do*. Names, paths, pids and times are examples (`/srv` is some
directory, `5f2c1d3e-…` some guest's uuid, 4711 some process); look yours up by the words around
them. *exit* is the exit code, *none* where nothing ends; a launcher reads code and line on
`--ready-fd` after `ERROR`. What the control pipe answers is the same line in `desc`, and its parts
in `fields`.

Whatever is refused before a guest runs leaves nothing behind: no lease, no process, no byte of a
disk changed. "Our own fault" is a bug, ours or a plugin's: please report the whole line.
"""


def document(lines: Sequence[Line]) -> str:
    """Return the whole document."""
    return "\n".join([_HEAD, *(_chapter(subject, lines) for subject in SUBJECTS)])


def _chapter(subject: str, lines: Sequence[Line]) -> str:
    rows = {
        line.example: _row(line.example, line.said.code, line.case.means)
        for line in reversed(lines)  # of two places that say the same, the first explains it
        if line.subject == subject
    }
    unprovoked = [
        _row(site.text, excuse.code, f"{excuse.means} (Untested: {excuse.why}.)")
        for site in sites()
        for words, excuse in EXCUSED.items()
        if excuse.subject == subject and words in site.text
    ]
    table = ["| line | exit | what it means, what to do |", "|---|---:|---|"]
    return "\n".join([f"## {subject}\n", *table, *reversed(rows.values()), *unprovoked, ""])


def _row(line: str, code: int, means: str) -> str:
    shown = line.replace("|", "\\|")
    return f"| `{shown}` | {code or 'none'} | {means} |"
