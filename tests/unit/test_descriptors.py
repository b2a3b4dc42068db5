"""Which descriptors does argv name, and do ours keep clear of them?"""

from __future__ import annotations

import fcntl
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockplugins.contract import ConfigError
from supervisor.guard.descriptors import FIRST_OWN, Shelf, _named, check_named

NAMED = {
    "tap,id=n0,fd=3": [3],
    "tap,id=n0,fds=3:4:5,vhost=on,vhostfds=6:7:8": [3, 4, 5, 6, 7, 8],
    "tap,vhostfd=9,fd=10": [10, 9],
    "socket,id=c0,fd=11,server=on,wait=off": [11],
    "fd=12,set=2,opaque=rdwr:/tmp/disk": [12],
    "fd:13": [13],
    "vhost-vsock-pci,vhostfd=14": [14],
    '{"driver":"file","filename":"/dev/fd/15"}': [15],
    '{"type":"tap", "id": "n0", "fd": "16", "vhostfd": 17}': [16, 17],
    '{"driver": "vfio-pci", "fd" : 18}': [18],
    "file=/dev/fd/19,format=raw": [19],
    "/dev/fd/20": [20],
    "/proc/self/fd/21": [21],
    "memory-backend-file,id=m,mem-path=/proc/self/fd/22,size=1G": [22],
    "driver=file,filename=/dev/fd/23": [23],
    "sev-fd=24,sock_fd=25": [24, 25],
    # Names of descriptors that a monitor was given, fd sets, and things that look like either.
    "tap,fd=net0": [],
    "/dev/fdset/1": [],
    "file=/dev/fdset/1": [],
    "path=/tmp/fd=26": [],
    "/tmp/disk-fd:27.img": [],
    "/tmp/fd:27": [],
    "file=/tmp/fd:28": [],
    "file=/srv/fd/29": [],
    "xfd.29": [],
    "fdx=30": [],
    "fda,fdb": [],
    "floppy-fd0=": [],
    "fd=-1": [],
    "fd=": [],
    "fd": [],
    "fd=\u0663": [],
    "": [],
    ",,,": [],
}


@pytest.mark.parametrize(("argument", "numbers"), NAMED.items())
def test_descriptors_are_found_by_qemus_names_for_them(argument: str, numbers: list[int]) -> None:
    assert sorted(_named(argument)) == sorted(numbers)


@given(st.text())
def test_any_argument_can_be_looked_at(argument: str) -> None:
    assert all(number >= 0 for number in _named(argument))


def test_one_that_is_open_is_fine_and_one_that_is_not_is_named() -> None:
    read_fd, write_fd = os.pipe()
    check_named(["qemu", "-netdev", f"tap,fds={read_fd}:{write_fd}"])
    os.close(read_fd)
    os.close(write_fd)
    argument = f"tap,fd={read_fd}"
    with pytest.raises(ConfigError) as caught:
        check_named(["qemu", "-netdev", argument])
    expected = f"cannot start the guest with {argument}: descriptor {read_fd} is not open; "
    assert str(caught.value).startswith(expected)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("number", [1 << 31, 1 << 64, 10**30])
def test_a_number_that_is_no_descriptor_is_not_open(number: int) -> None:
    with pytest.raises(ConfigError, match=f"descriptor {number} is not open"):
        check_named(["qemu", f"fd={number}"])


@given(st.sets(st.integers(FIRST_OWN, FIRST_OWN + 20)), st.sampled_from(":,=-./ x"))
def test_ours_are_out_of_the_way_of_every_number_in_argv(numbers: set[int], between: str) -> None:
    shelf = Shelf(["qemu", between.join(map(str, numbers)), "-m", "4096"])
    taken = os.dup(0)
    lifted = shelf.lift(taken)
    try:
        assert lifted >= FIRST_OWN
        assert lifted not in numbers
        assert not os.get_inheritable(lifted)
        assert os.path.sameopenfile(lifted, 0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(taken)
    finally:
        os.close(lifted)


def test_ours_are_out_of_the_way_of_what_is_open() -> None:
    others = [fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, FIRST_OWN) for _ in range(5)]
    lifted = Shelf([]).lift(os.dup(0))
    try:
        assert lifted > max(others)
    finally:
        for fd in (*others, lifted):
            os.close(fd)


def test_what_is_withheld_is_out_of_the_guests_reach() -> None:
    read_fd, write_fd = os.pipe()
    os.set_inheritable(read_fd, True)
    ours, nothing, again = Shelf([]).withhold(read_fd, None, read_fd)
    assert ours is not None
    assert (nothing, again) == (None, ours)
    assert not os.get_inheritable(ours)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read_fd)
    os.write(write_fd, b"x")
    assert os.read(ours, 2) == b"x"
    os.close(ours)
    os.close(write_fd)


def test_what_is_withheld_must_be_open() -> None:
    read_fd, write_fd = os.pipe()
    os.close(write_fd)
    with pytest.raises(ConfigError, match=f"the guard: descriptor {write_fd} is not open"):
        Shelf([]).withhold(read_fd, write_fd)
    os.close(read_fd)  # where it was: the launcher can be told there
