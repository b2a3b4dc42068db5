"""Is sanlock spoken to in its own structures and numbers, and missed in plain words?"""

from __future__ import annotations

import ctypes

import pytest

from lockplugins.contract import LockError
from lockplugins.sanlock import library

# From the headers of libsanlock-dev 3.8.5, compiled for this machine.
LAYOUTS = {
    library.Disk: (1040, {"offset": 1024}),
    library.Resource: (
        128 + 1040,
        {"name": 48, "version": 96, "data32": 112, "flags": 120, "num_disks": 124, "disk": 128},
    ),
    library.Lockspace: (1104, {"host_id": 48, "flags": 56, "disk": 64}),
    library.Owner: (32, {"generation": 8, "timestamp": 16, "io_timeout": 24, "flags": 28}),
}


@pytest.mark.parametrize("kind", LAYOUTS, ids=lambda kind: kind.__name__)
def test_a_structure_is_laid_out_as_the_daemon_reads_it(kind: type[ctypes.Structure]) -> None:
    size, offsets = LAYOUTS[kind]
    assert ctypes.sizeof(kind) == size
    assert {name: getattr(kind, name).offset for name in offsets} == offsets


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-243, "SANLK_ACQUIRE_IDLIVE (-243)"),
        (-17, "EEXIST (-17)"),
        (-1, "no reason given (-1)"),
        (-999, "error (-999)"),
    ],
)
def test_an_error_has_sanlocks_name_and_number(code: int, words: str) -> None:
    assert library.named(code) == words
    assert str(library.SanlockError("acquire", code)) == f"acquire: {words}"


def test_no_two_errors_have_one_name() -> None:
    assert len(library.CODES) == len(library.ERRORS)


def test_a_lease_is_one_megabyte_or_eight() -> None:
    assert [library.bytes_of(flags) for flags in (library.SMALL, library.LARGE)] == [
        1 << 20,
        8 << 20,
    ]


def test_without_the_library_its_package_is_named() -> None:
    with pytest.raises(LockError) as refused:
        library.Library("libnothing.so.1")
    assert str(refused.value).startswith("cannot load libsanlock: libnothing.so.1: cannot open")
    assert str(refused.value).endswith("; run: apt-get install libsanlock-client1")
