"""Does the guest's writer do what the checker believes it does? Here it runs on the host.

Byte for byte as the model says; and what it finds on its disk, at its start and before it
overwrites, it judges as the checker does, so that a guest never destroys evidence unseen.
"""

from __future__ import annotations

import os
import select
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.guest.block import BLOCK_BYTES, GAP, MAX_BOOTS, MIN_SLOTS
from tests.support.guest.checker import Kind, check, judge, read_pages
from tests.support.guest.model import EMPTY, Ring, Writer
from tests.support.qemu import WRITER, wait_ready

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SECONDS = 20
NONCE = 0x0123456789ABCDEF
ON_ONE_FILE = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
SYNCED_WRITES = settings(ON_ONE_FILE, max_examples=6)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    assert WRITER.exists(), "run bin/setup"
    image = tmp_path / "disk.raw"
    save(Ring(), image)
    return image


def save(ring: Ring, image: Path) -> None:
    image.write_bytes(b"".join(ring.pages))


def argv(image: Path, nonce: int, *words: str) -> list[str]:
    return [str(WRITER), str(image), f"nonce={nonce:016x}", "guest=model", *words]


def write(image: Path, nonce: int, count: int) -> str:
    command = argv(image, nonce, f"count={count}")
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
    return done.stdout


@SYNCED_WRITES
@given(runs=st.lists(st.integers(1, 3) | st.just(MIN_SLOTS + 9), min_size=1, max_size=5))
def test_it_writes_what_the_model_writes(image: Path, runs: list[int]) -> None:
    ring = Ring()
    save(ring, image)
    for nonce, count in enumerate(runs, NONCE):
        write(image, nonce, count)
        Writer(ring, nonce).write(count)
        assert read_pages(image) == ring.pages


def test_it_hands_on_the_history_of_the_last_boots(image: Path) -> None:
    ring = Ring()
    for nonce in range(1, MAX_BOOTS + 3):
        Writer(ring, nonce).write()
    save(ring, image)
    write(image, NONCE, 2)
    Writer(ring, NONCE).write(2)
    assert read_pages(image) == ring.pages
    assert check(image).clean


@ON_ONE_FILE
@given(data=st.data())
def test_at_its_start_it_judges_as_the_checker_does(image: Path, data: st.DataObject) -> None:
    ring = Ring()
    versions = [list(ring.pages)]
    for nonce in range(1, data.draw(st.sampled_from([2, 4, MAX_BOOTS + 2]))):
        writer = Writer(ring, nonce * 7919)
        writer.write(data.draw(st.integers(1, 3) | st.integers(200, 300)) if nonce < 4 else 1)
        versions.append(list(ring.pages))
    stranger = Writer(ring, NONCE + 1)
    for _ in range(data.draw(st.integers(1, 2))):
        match data.draw(st.sampled_from(["late", "foreign", "back", "torn", "empty"])):
            case "late":
                writer.write()
                ring.pages[(writer.seq - 2) % MIN_SLOTS] = versions[-1][0]
            case "foreign":
                stranger.write()
            case fault:
                slot = data.draw(st.integers(0, MIN_SLOTS - 1))
                back = data.draw(st.sampled_from(versions))[slot]
                garbage = ring.pages[slot][:9] + b"\1" + ring.pages[slot][10:]
                ring.pages[slot] = {"back": back, "torn": garbage, "empty": EMPTY}[fault]
    save(ring, image)
    before = judge(ring.pages)
    write(image, NONCE, 1)
    newest = Ring()
    newest.pages = read_pages(image)
    block = newest.newest()
    assert block
    assert bool(block.conflict.kind) == bool(before.violations)
    if before.violations:
        gravest = Kind.INTERLEAVED if before.interleaved else before.violations[0].kind
        assert list(Kind)[block.conflict.kind - 1] is gravest


@pytest.mark.parametrize("ahead", [0, GAP + 5, 2 * GAP + 5])
def test_only_the_block_in_flight_at_a_kill_may_be_torn(image: Path, ahead: int) -> None:
    ring = Ring()
    writer = Writer(ring, 1)
    writer.write(7)
    writer.seq += ahead
    ring.tear(writer.block())
    save(ring, image)
    said = write(image, NONCE, 1)
    assert ("kind=torn" in said) == (ahead > 2 * GAP)
    assert check(image).clean == (ahead <= 2 * GAP)


def test_a_foreign_block_matters_more_than_a_lost_one(image: Path) -> None:
    ring = Ring()
    lost = Writer(ring, 1)
    lost.write(20)
    ring.pages[lost.first % MIN_SLOTS] = EMPTY
    ring.put(Writer(Ring(), 2 * GAP - 30).block())
    save(ring, image)
    assert "kind=foreign" in write(image, NONCE, 1)


def test_before_it_overwrites_it_looks(image: Path) -> None:
    with subprocess.Popen(argv(image, NONCE), stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            assert process.stdout
            wait_ready(process.stdout)
            # Two strangers, well apart: it cannot be writing in both places just now.
            with image.open("r+b", buffering=0) as file:
                for nonce in (10, 40):
                    block = Writer(Ring(), nonce).block()
                    os.pwrite(file.fileno(), block.pack(), block.slot * BLOCK_BYTES)
            assert select.select([process.stdout], [], [], SECONDS)[0], "it has not looked"
            said = process.stdout.readline()
        finally:
            process.kill()
    assert b"conflict disk=disk.raw kind=foreign" in said
    write(image, NONCE + 2, 2 * MIN_SLOTS)
    report = check(image)
    assert [violation.kind for violation in report.violations] == [Kind.INTERLEAVED]
    assert "of boot 00000000000000" in report.reasons[0]


def test_it_keeps_off_a_disk_that_holds_something_else(image: Path) -> None:
    image.write_bytes(b"precious" * (MIN_SLOTS * BLOCK_BYTES // 8))
    before = image.read_bytes()
    command = argv(image, NONCE, "count=1")
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert done.stdout == "guest: cannot write disk.raw: it holds something else\n"
    assert image.read_bytes() == before


def test_it_refuses_the_nonce_of_an_earlier_boot(image: Path) -> None:
    write(image, NONCE, 3)
    before = image.read_bytes()
    command = argv(image, NONCE, "count=1")
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert "an earlier boot had the same nonce" in done.stdout
    assert image.read_bytes() == before
