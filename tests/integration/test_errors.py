"""Is every error that the product can print provoked, in one line of one shape, and explained?

The lines are the real command's, guard's and plugins'; the table that is made of them is
docs/errors.md.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.errors.document import COMMAND, PATH, document
from tests.support.errors.excused import EXCUSED
from tests.support.errors.provoking import Line, provoke_all, site_of
from tests.support.errors.sites import Site, sites
from tests.support.sources import read

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow  # some two hundred commands, a few of which wait for a limit

TOOLS = ("losetup", "mount", "qemu-system-x86_64", "strace", "unshare")
SHAPE = re.compile(r"cannot \S+ .+: .+[^.]", re.DOTALL)
RAW = re.compile(r"\[Errno|Traceback|<class|object at 0x")


@pytest.fixture(scope="module")
def lines(pytestconfig: pytest.Config, require: Callable[[str], str]) -> list[Line]:
    if os.geteuid() != 0:
        refuse = pytest.fail if pytestconfig.getoption("--strict-env") else pytest.skip
        refuse("only root may; run the tests as root")
    for tool in TOOLS:
        require(tool)
    return provoke_all()


@pytest.fixture(scope="module")
def places() -> list[Site]:
    return sites()


def test_every_case_provokes_one_line_with_its_exit_code(lines: list[Line]) -> None:
    wrong = {line.example: (line.said.code, line.case.code) for line in lines if not is_right(line)}
    assert wrong == {}


def is_right(line: Line) -> bool:
    return line.said.code == line.case.code


def test_every_line_says_what_cannot_be_done_and_why(lines: list[Line]) -> None:
    assert [line.example for line in lines if not SHAPE.fullmatch(line.said.line)] == []
    assert [line.example for line in lines if RAW.search(line.said.line)] == []


def test_every_place_that_can_say_an_error_is_provoked(
    lines: list[Line], places: list[Site]
) -> None:
    assert len(places) > 150
    provoked = {site_of(line, places) for line in lines if is_right(line)}
    excused = {
        words: [site for site in places if words in site.text and site not in provoked]
        for words in EXCUSED
    }
    assert {words for words, found in excused.items() if len(found) != 1} == set()
    left = [site for site in places if site not in provoked]
    left = [site for site in left if not any(words in site.text for words in EXCUSED)]
    listed = "\n".join(map(str, left))
    assert not left, f"provoke in tests/support/errors what is said by\n{listed}"


def test_every_error_is_in_the_document(lines: list[Line]) -> None:
    made = document(lines)
    missing = set(made.splitlines()) ^ set(read(PATH).splitlines())
    listed = "\n".join(sorted(missing))
    assert made == read(PATH), f"{PATH} is not what the tests say: {COMMAND}\n{listed}"
