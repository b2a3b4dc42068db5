"""Is every value of the table [sanlock] either used, or refused with what is allowed?"""

from __future__ import annotations

import os

import pytest

from lockplugins.contract import ConfigError
from lockplugins.sanlock.settings import Settings


def test_what_is_not_said_is_as_libvirt_has_it() -> None:
    settings = Settings({})
    assert settings.lockspace_path == "/var/lib/libvirt/sanlock/__LIBVIRT__DISKS__"
    assert (settings.io_timeout_s, settings.uid, settings.gid, settings.mode) == (0, -1, -1, 0o600)


def test_every_key_is_used() -> None:
    table = {"disk_lease_dir": "/srv/leases/", "host_id": "2000", "io_timeout": "20"}
    settings = Settings({**table, "user": "root", "group": str(os.getgid())})
    settings.check_host_id()
    assert settings.lockspace_path == "/srv/leases/__LIBVIRT__DISKS__"
    assert (settings.host_id, settings.io_timeout_s) == (2000, 20)
    assert settings.joining.endswith("takes 41 s to join, or 281 s where sanlock was killed")
    assert (settings.uid, settings.gid, settings.mode) == (0, os.getgid(), 0o660)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("host_id", "0", "unusable value; allowed: a number from 1 to 2000"),
        ("host_id", "2001", "a number from 1 to 2000"),
        ("host_id", "1.0", "a number from 1 to 2000"),
        ("host_id", "-1", "a number from 1 to 2000"),
        ("host_id", "²", "a number from 1 to 2000"),
        ("io_timeout", "256", "a number from 0 to 255"),
        ("io_timeout", "ten", "a number from 0 to 255"),
        ("disk_lease_dir", "leases", "an absolute directory"),
        ("disk_lease_dir", "/srv/a lease", "without blank, colon, backslash"),
        ("disk_lease_dir", "/srv/a:b", "without blank, colon, backslash"),
        ("disk_lease_dir", "/" + 900 * "x", "an absolute directory of at most 900 bytes"),
        ("user", "no-such-user", "this host knows no such name; give one that it knows"),
        ("group", "no-such-group", "this host knows no such name; give one that it knows"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(key: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Settings({key: value})
    assert str(refused.value).startswith(f"cannot use {key} = {value} of plugin sanlock: ")
    assert words in str(refused.value)


def test_without_a_host_id_one_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="plugin sanlock: host_id is not set; give every host"):
        Settings({}).check_host_id()
