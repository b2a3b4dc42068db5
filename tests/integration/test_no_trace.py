"""Do who and plan leave anything behind, or stand in anybody's way for an instant?"""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.faults import freezing
from tests.support import proclocks, traces, waiting
from tests.support.guard import Guards
from tests.support.qemu import QEMU

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.command import Command

pytestmark = pytest.mark.slow

ENOUGH_TRIES = 1000


class Place:
    """A filesystem with disks, a guest that runs, one whose guard is dead, and lock files."""

    def __init__(self, path: str, guards: Guards) -> None:
        self.path = path
        self.locks = f"{path}/locks"
        self.config = f"{path}/config.toml"
        guards.runtime_dir = f"{path}/run"
        guards.defaults = {"config": {"file": {"file_lockspace_dir": self.locks}}}
        with open(self.config, "w", encoding="ascii") as file:
            file.write(f'[file]\nfile_lockspace_dir = "{self.locks}"\n')
        for name in ("free", "held", "dead"):
            with open(self.disk(name), "wb") as file:
                file.truncate(1 << 20)
        base, overlay = self.disk("base.qcow2"), self.disk("overlay.qcow2")
        create = ("qemu-img", "create", "-q", "-f", "qcow2")
        subprocess.run([*create, base, "1M"], check=True, timeout=60)
        subprocess.run([*create, "-F", "qcow2", "-b", base, overlay], check=True, timeout=60)
        guards.run(self.disk("held"), name="web1")
        dead = guards.run(self.disk("dead"), name="web2")
        dead.kill()
        self.dead = dead.path
        # The kernel may close what a dead process had in flight an instant after its end.
        free = [self.disk("dead"), self.lock_file("dead")]
        waiting.until(lambda: not any(map(proclocks.locks, free)), 30, "its locks are gone")
        traces.age(path)

    def disk(self, name: str) -> str:
        return f"{self.path}/{name}"

    def lock_file(self, name: str) -> str:
        return f"{self.locks}/{hashlib.sha256(os.fsencode(self.disk(name))).hexdigest()}"

    def questions(self) -> list[tuple[int, list[str]]]:
        """Return command lines, and how each ends."""
        drives = [f"file={self.disk(name)},format=raw" for name in ("free", "held", "gone")]
        drives.append(f"file={self.disk('overlay.qcow2')}")
        command = ["--", QEMU, *(word for drive in drives for word in ("-drive", drive))]
        who = [(1, "free"), (0, "held"), (1, "dead"), (1, "base.qcow2"), (111, "gone"), (111, "")]
        return [
            *((code, ["who", self.disk(name)]) for code, name in who),
            (0, ["plan", *command]),
            (0, ["plan", "--uuid", os.path.basename(self.dead), *command]),
            (0, ["plan", "--no-discover", "--disk", self.disk("held"), "--", "true"]),
            (2, ["plan", "--", "true"]),
        ]


@pytest.fixture(params=["strictatime", "relatime"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, require: Callable[[str], str]
) -> Iterator[Place]:
    if os.geteuid() != 0:
        pytest.skip("mounts a filesystem")
    require("mkfs.ext4")
    options = f"loop,{request.param}"
    with freezing.filesystem(tmp_path, options) as mounted, Guards(tmp_path) as guards:
        yield Place(mounted.path, guards)


def test_no_file_no_directory_no_lock_is_any_different(place: Place, command: Command) -> None:
    before = traces.of(place.path)
    assert len(before["locks"]) > 2
    assert os.path.isdir(place.dead)
    for code, words in place.questions():
        for runtime_dir in (f"{place.path}/run", f"{place.path}/none"):
            options = ["--config", place.config, "--runtime-dir", runtime_dir]
            result = command(words[0], *options, *words[1:])
            assert result.code == code, (words, result)
            after = traces.of(place.path)
            after[place.config] = before[place.config]  # read, since it is told to
            assert after == before, words


def test_a_reader_that_is_not_careful_would_be_seen(place: Place) -> None:
    before = traces.of(place.path)
    with open(place.disk("base.qcow2"), "rb") as file:
        file.read(1)
    after = traces.of(place.path)
    assert {name for name in after if after[name] != before[name]} == {place.disk("base.qcow2")}


def test_nobody_is_refused_for_an_instant(place: Place, command: Command) -> None:
    """A program that locks whole files as fast as it can never meets a lock of ours."""
    with open(place.lock_file("free"), "wb"):
        pass
    files = [place.disk("free"), place.disk("overlay.qcow2"), place.lock_file("free")]
    with traces.Spinner(files) as spinner:
        for code, words in place.questions():
            result = command(words[0], "--config", place.config, *words[1:])
            assert result.code in {code, 0}, (words, result)  # it may be met, and named
        tries, refused = spinner.end()
    assert tries > ENOUGH_TRIES
    assert refused == 0


def test_the_dead_guards_directory_is_left_to_the_commands_that_ask_for_guests(
    place: Place, command: Command
) -> None:
    options = ("--runtime-dir", f"{place.path}/run")
    assert command("who", place.disk("dead"), *options).code == 1
    assert os.path.isdir(place.dead)
    assert command("list", *options).code == 0
    assert not os.path.isdir(place.dead)
