"""Is what docs/sanlock.md shows what the product takes and says?"""

from __future__ import annotations

import re
import tomllib

import pytest

from lockplugins.registry import plugin_class
from lockplugins.sanlock import examine
from lockplugins.sanlock.settings import KEYS, Settings
from lockplugins.sanlock.times import failure_s, renewal_s, takeover_s
from tests.support.sources import read

IO_TIMEOUT_S = 10


@pytest.fixture
def page() -> str:
    return read("docs/sanlock.md")


def test_its_configuration_is_understood(page: str) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    config = tomllib.loads(text)
    table = {key: str(value) for key, value in config["sanlock"].items()}
    assert set(table) == set(KEYS)
    del table["user"], table["group"]  # of a host that has sanlock
    settings = Settings(table)
    assert (settings.host_id, settings.io_timeout_s) == (1, IO_TIMEOUT_S)
    assert plugin_class(config["plugin"]).name == "sanlock"


def test_its_checks_are_doctors(page: str) -> None:
    shown = re.findall(r"^(?:ok  |WEAK)  ([a-z ]+?)(?: /\S+)?  ", page, re.MULTILINE)
    assert len(shown) > len(set(shown)), "times has several lines"
    assert set(shown) == set(examine.CHECKS) - {examine.LIBRARY}


def test_its_times_are_sanlocks(page: str) -> None:
    told = [int(number) for number in re.findall(r"^ok    times +(\d+) s: ", page, re.MULTILINE)]
    failed = failure_s(IO_TIMEOUT_S)
    assert told == [renewal_s(IO_TIMEOUT_S), failed - 1, failed, takeover_s(IO_TIMEOUT_S)]


def test_what_it_explains_is_said(page: str) -> None:
    table = page.partition("## When it does not work")[2]
    quoted = re.findall(r"`([^`]+)`", "\n".join(re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE)))
    assert len(quoted) > 5
    known = read("docs/errors.md") + read("lockplugins/sanlock/lockspace.py")
    known += read("lockplugins/sanlock/status.py")
    pieces = [piece.strip() for words in quoted for piece in words.split("…") if piece.strip()]
    assert [piece for piece in pieces if piece.strip(": ") not in known] == []
