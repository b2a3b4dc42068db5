"""Does the checker see every violation, and none where there is none?"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.guest.block import BLOCK_BYTES, GAP, MAX_BOOTS, MIN_SLOTS, Conflict, parse
from tests.support.guest.checker import Kind, Report, check, judge, main
from tests.support.guest.model import EMPTY, Ring, Writer

if TYPE_CHECKING:
    from pathlib import Path

# How many blocks each boot writes: none, a few, a lap, more than a lap.
RUNS = st.lists(st.integers(0, 3) | st.integers(0, MIN_SLOTS + 9), min_size=1, max_size=6).filter(
    any
)
FEW = settings(max_examples=20, deadline=None)


def written(runs: list[int]) -> Ring:
    ring = Ring()
    for nonce, count in enumerate(runs, 1):
        Writer(ring, nonce * 7919).write(count)
    return ring


def kinds(report: Report) -> set[Kind]:
    return {violation.kind for violation in report.violations}


def whole_slots(ring: Ring) -> list[int]:
    return [s for s, page in enumerate(ring.pages) if parse(page, s, len(ring.pages))]


@FEW
@given(RUNS)
def test_boots_one_after_another_are_clean(runs: list[int]) -> None:
    report = judge(written(runs).pages)
    assert report.clean
    assert report.guest == "model"
    assert [boot.blocks for boot in report.boots] == [count for count in runs if count]


@FEW
@given(RUNS, st.data())
def test_the_block_in_flight_at_a_kill_may_be_torn(runs: list[int], data: st.DataObject) -> None:
    ring = Ring()
    for nonce, count in enumerate(runs, 1):
        writer = Writer(ring, nonce * 104729)
        writer.write(count)
        if data.draw(st.booleans()):
            ring.tear(writer.block())
    assert judge(ring.pages).violations == ()


def test_more_boots_than_a_block_can_name_are_clean() -> None:
    ring = written([3] * (MAX_BOOTS + 5))
    assert len(judge(ring.pages).boots) == MAX_BOOTS
    assert judge(ring.pages).clean


@FEW
@given(RUNS, st.lists(st.booleans(), min_size=2, max_size=60).filter(lambda t: len(set(t)) == 2))
def test_two_guests_that_take_turns_are_interleaved(runs: list[int], turns: list[bool]) -> None:
    ring = written(runs)
    two = (Writer(ring, 1 << 40), Writer(ring, (1 << 40) + GAP - 1))
    for turn in turns:
        two[turn].write()
    assert judge(ring.pages).interleaved


@FEW
@given(RUNS, st.integers(1, 60), st.integers(1, 100))
def test_a_write_that_lands_after_the_successor_began_is_interleaved(
    runs: list[int], late: int, count: int
) -> None:
    ring = written(runs)
    first = Writer(ring, 1 << 40)
    first.write(5)
    second = Writer(ring, 1 << 41)
    first.write(late)
    second.write(count)
    report = judge(ring.pages)
    assert report.interleaved
    assert "written after" in report.reasons[0]


def test_a_known_boot_with_another_history_is_interleaved() -> None:
    ring = Ring()
    Writer(ring, 1).write(10)
    forked = Writer(ring, 2)
    forked.write(10)
    forked.before = (forked.before[0]._replace(last=forked.before[0].last - 1),)
    forked.write(10)
    forked.before = (forked.before[0]._replace(last=forked.before[0].last + 1),)
    forked.write()
    report = judge(ring.pages)
    assert report.interleaved
    assert len(report.reasons) == 10
    assert "whose history is another" in report.reasons[0]


@FEW
@given(RUNS, st.data())
def test_a_lost_block_is_seen_unless_it_was_the_last(runs: list[int], data: st.DataObject) -> None:
    ring = written([*runs, 3])
    before = list(ring.pages)
    writer = Writer(ring, 1 << 40)
    writer.write(300)
    newest = writer.seq - 1
    slot = data.draw(st.sampled_from([s for s in whole_slots(ring) if s != newest % MIN_SLOTS]))
    ring.pages[slot] = data.draw(st.sampled_from([before[slot], EMPTY]))
    report = judge(ring.pages)
    assert len(report.violations) == 1
    assert kinds(report) == {Kind.LOST}


@FEW
@given(RUNS, st.data())
def test_a_torn_block_is_seen_unless_it_was_in_flight(runs: list[int], data: st.DataObject) -> None:
    ring = written([*runs, 300])
    newest = ring.newest()
    assert newest
    slot = data.draw(st.sampled_from([s for s in whole_slots(ring) if s != newest.slot]))
    at = data.draw(st.integers(0, BLOCK_BYTES - 1))
    page = bytearray(ring.pages[slot])
    page[at] ^= 1
    ring.pages[slot] = bytes(page)
    # More than a lap was written: in flight can only be what the last boot was to write next.
    ahead = (slot - newest.seq) % MIN_SLOTS
    legitimate = ahead == 1 or GAP < ahead <= 2 * GAP
    assert kinds(judge(ring.pages)) == (set() if legitimate else {Kind.TORN})


@pytest.mark.parametrize(("number", "kind"), list(enumerate(Kind, 1)))
def test_what_a_guest_found_is_reported_for_ever(number: int, kind: Kind) -> None:
    ring = written([5])
    Writer(ring, 99, Conflict(number, 3, 0xABC, 77, 99, 200)).write(600)
    report = judge(ring.pages)
    assert kinds(report) == {kind}
    assert "found seq 77 of boot 0000000000000abc in slot 3" in report.reasons[0]


def test_an_image_that_no_guest_wrote_is_not_clean() -> None:
    ring = Ring()
    assert not judge(ring.pages).clean
    assert judge(ring.pages).violations == ()
    ring.pages = [b"\1" * BLOCK_BYTES] * MIN_SLOTS
    assert kinds(judge(ring.pages)) == {Kind.TORN}


def test_qcow2_is_read_like_raw(tmp_path: Path) -> None:
    ring = written([20, 30])
    raw, qcow2 = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    raw.write_bytes(b"".join(ring.pages))
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True, timeout=30
    )
    assert check(qcow2) == check(raw)
    assert check(raw).clean


def test_the_command_says_what_it_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ring = written([20])
    image = tmp_path / "disk.raw"
    image.write_bytes(b"".join(ring.pages))
    assert main([str(image)]) == 0
    assert "clean: one guest at a time" in capsys.readouterr().out
    stranger = Writer(Ring(), 5)
    stranger.write()
    ring.put(stranger.block())
    image.write_bytes(b"".join(ring.pages))
    assert main([str(image)]) == 1
    assert "interleaved: slot" in capsys.readouterr().out
    assert main([str(tmp_path / "none")]) == 1
    assert "cannot check image" in capsys.readouterr().err


def test_the_command_runs_as_a_module(tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(MIN_SLOTS * BLOCK_BYTES))
    argv = [sys.executable, "-m", "tests.support.guest.checker", str(image)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "no guest has written to this image\n")
