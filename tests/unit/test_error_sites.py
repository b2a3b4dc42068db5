"""Does the scan see every way in which the source can say an error, and tell the lines apart?"""

from __future__ import annotations

import pytest

from tests.support.errors.sites import Site, sites_in
from tests.support.sources import Source

CONTRACT = Source("lockplugins/contract.py", "class LockError(Exception): ...")
HEAD = "from lockplugins.contract import LockError\n"


def found(text: str, *others: Source) -> list[Site]:
    """Return the sites of a module with this text."""
    return sites_in([CONTRACT, *others, Source("supervisor/x.py", HEAD + text)])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("raise LockError('do', f'guest {name}', 'it is', 'try')", "guest web1: it is; try"),
        ("def f(name):\n why = 'it is'\n raise LockError('do', name, why)", "web1: it is"),
        ("def f(x):\n a, b = 'it', 'go'\n raise LockError('do', x, a, b)", "web1: it; go"),
        ("raise LockError('do', name, 'on' if here else 'off')", "web1: off"),
        ("class E(LockError): ...\nraise E('do', name, reason=why)", "web1: whatever"),
        ("def w(name, why='gone') -> LockError:\n return LockError('do', name, why)\nraise w(n)",
         "web1: gone"),
        ("class E(LockError):\n def __init__(self, x):\n  super().__init__('do', x, 'no')\nE(1)",
         "web1: no"),
        ("say(f'cannot do {name}: it ended')", "web1: it ended"),
    ],
)  # fmt: skip
def test_every_way_to_say_an_error_is_one_site(text: str, line: str) -> None:
    (site,) = found(text)
    assert site.where.startswith("supervisor.x:")
    assert site.fits(f"cannot do {line}") > 0
    assert site.fits(f"cannot do {line}, not") < 0 or "whatever" in line
    assert site.fits("cannot undo web1: it is") < 0


def test_a_function_of_another_module_is_its_callers_site() -> None:
    maker = "def wrong(name) -> LockError:\n return LockError('read', name, 'it is empty')"
    other = Source("supervisor/y.py", HEAD + maker)
    (site,) = found("from supervisor import y\ndef f():\n raise y.wrong('--disk')", other)
    assert site.where == "supervisor.x:f"
    assert site.fits("cannot read --disk: it is empty") == len("cannot read --disk: it is empty")


def test_what_click_is_told_is_part_of_a_line_of_ours() -> None:
    (site,) = found("raise click.BadParameter(f'{text} is no number')")
    line = "cannot understand the command line: Invalid value for '--x': y is no number; see --help"
    assert site.fits(line) > 0


@pytest.mark.parametrize(
    "text",
    [
        "'''cannot do it: never'''",
        "say('cannot be opened: no')",
        "say(f'cannot tell: {x}')",
        "raise ValueError('x')",
    ],
)
def test_what_is_no_line_is_no_site(text: str) -> None:
    assert found(text) == []


def test_the_words_that_are_a_sites_own_tell_it_from_others() -> None:
    vague, exact = found(
        "raise LockError('open', name, why)\nraise LockError('open', name, 'it is a FIFO')"
    )
    line = "cannot open /srv/disk.raw: it is a FIFO"
    assert 0 < vague.fits(line) < exact.fits(line)
