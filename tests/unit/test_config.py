"""Is every word of the configuration file either used or refused by name?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import ConfigError
from supervisor import config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[[str | bytes], str]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(config.FILE_VARIABLE, raising=False)
    monkeypatch.delenv(config.RUNTIME_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(config, "DEFAULT_FILE", str(tmp_path / "etc.toml"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str | bytes) -> str:
        path = tmp_path / "given.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return written


def test_every_key_of_the_contract_is_read(write: Write) -> None:
    read = config.read(
        write(
            'plugin = "nop"\n'
            'containment = "pidns"\n'
            'on_lockfailure = "poweroff"\n'
            "stop_timeout = 2.5\n"
            'runtime_dir = "/run/x"\n'
            "auto_disk_leases = 0\n"
            "require_lease_for_disks = true\n"
            "[file]\n"
            'file_lockspace_dir = "/a"\n'
            'lvm_lockspace_dir = "/b"\n'
            'scsi_lockspace_dir = "/c"\n'
        )
    )
    assert (read.plugin, read.containment, read.on_lockfailure) == ("nop", "pidns", "kill")
    assert (read.stop_timeout, read.runtime_dir) == (2.5, "/run/x")
    assert (read.auto_disk_leases, read.require_lease_for_disks) == (False, True)
    assert read.tables == {
        "file": {"file_lockspace_dir": "/a", "lvm_lockspace_dir": "/b", "scsi_lockspace_dir": "/c"}
    }


def test_without_a_file_the_defaults_hold() -> None:
    read = config.read(None)
    assert (read.plugin, read.containment, read.runtime_dir, read.tables) == (None, None, None, {})
    assert (read.auto_disk_leases, read.require_lease_for_disks) == (True, False)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('plugn = "file"', ("plugn", "plugin containment")),
        ('containment = "none"', ("containment = none", "auto pdeathsig pidns")),
        ("containment = 1", ("containment = 1", "auto pdeathsig pidns")),
        ('on_lockfailure = "ignore"', ("on_lockfailure = ignore", "kill pause poweroff")),
        ("stop_timeout = -1", ("stop_timeout = -1", "0 or more")),
        ("stop_timeout = nan", ("stop_timeout = nan", "0 or more")),
        ('stop_timeout = "10"', ("stop_timeout = 10", "0 or more")),
        (f"stop_timeout = {10**400}", ("stop_timeout = 1000", "0 or more")),
        ("stop_timeout = true", ("stop_timeout = True", "0 or more")),
        ('runtime_dir = "run"', ("runtime_dir = run", "relative")),
        ('runtime_dir = ""', ("runtime_dir", "not empty")),
        ('auto_disk_leases = "yes"', ("auto_disk_leases = yes", "true false 1 0")),
        ("auto_disk_leases = 2", ("auto_disk_leases = 2", "true false 1 0")),
        ("require_lease_for_disks = 1.0", ("require_lease_for_disks = 1.0", "true false 1 0")),
        ('[file]\ndir = "/x"', ("table [file] dir", "file_lockspace_dir")),
        ('[file]\nfile_lockspace_dir = "x"', ("table [file] file_lockspace_dir", "relative")),
        ("[file]\nfile_lockspace_dir = [1]", ("table [file] file_lockspace_dir", "a string")),
        ('[file]\nfile_lockspace_dir = "/x\\u0000"', ("table [file]", "a string")),
        ("[nop]\nany = 1", ("table [nop] any", "no key at all")),
        ("[sanlock]\nhost_id = 0", ("host_id = 0 ", "table [sanlock] of ", "1 to 2000")),
        ("[sanlock]\nio_timeout = 1.5", ("io_timeout = 1.5 ", "table [sanlock]", "0 to 255")),
        ('[sanlock]\ndisk_lease_dir = "x"', ("table [sanlock] disk_lease_dir", "relative")),
        ('[sanlock]\nuser = "no-such"', ("user = no-such ", "table [sanlock]", "or a number")),
        ("[etcd]\nfailover_s = 5", ("failover_s = 5", "table [etcd] of ", "15 to 3600")),
        ('[etcd]\nendpoints = ["a", 1]', ("table [etcd] endpoints", "a string")),
        ('[etcd]\nendpoints = ["a", "b,c"]', ("table [etcd] endpoints", "a string")),
        ("[consul]\nhost = 1", ("table [consul]", "there is no such plugin here")),
        ("[nonsense]", ("table [nonsense]", "file nop")),
    ],
)
def test_an_unknown_key_or_value_names_file_table_key_and_what_is_allowed(
    write: Write, text: str, named: tuple[str, str]
) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        config.read(path)
    line = str(caught.value)
    assert line.startswith("cannot use ")
    assert path in line
    assert all(word in line for word in named), line
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b'plugin = "file"\ncontainment =\n', "line 2"),
        (b'plugin = "file"\nplugin = "nop"\n', "line 2"),
        (b'plugin = "file"\n\n# \xff\n', "line 3"),
        (b"stop_timeout = " + b"1" * 5000, "not TOML: Exceeds the limit"),
    ],
)
def test_a_syntax_error_names_file_and_line(write: Write, text: bytes, line: str) -> None:
    path = write(text)
    for read in (config.read, lambda given: config.runtime_dir(None, given)):
        with pytest.raises(ConfigError, match=line) as caught:
            read(path)
        assert path in str(caught.value)


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.read(str(tmp_path / "missing.toml"))


def test_the_option_wins_over_the_environment_and_that_over_the_system(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc.toml").write_text('plugin = "system"')
    assert config.read(None).plugin == "system"
    (tmp_path / "env.toml").write_text('plugin = "environment"')
    monkeypatch.setenv(config.FILE_VARIABLE, str(tmp_path / "env.toml"))
    assert config.read(None).plugin == "environment"
    assert config.read(write('plugin = "option"')).plugin == "option"
    monkeypatch.setenv(config.FILE_VARIABLE, "")
    assert config.read(None).plugin == "system"


def test_the_runtime_directory_is_the_options_the_environments_the_files_the_users(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.runtime_dir(None, None) == config.default_base()
    path = write('runtime_dir = "/from/file"')
    assert config.runtime_dir(None, path) == "/from/file"
    monkeypatch.setenv(config.RUNTIME_DIR_VARIABLE, "/from/environment")
    assert config.runtime_dir(None, path) == "/from/environment"
    assert config.runtime_dir("here", path) == os.path.join(os.getcwd(), "here")


def test_a_guest_can_be_found_while_the_file_has_a_fault_elsewhere(write: Write) -> None:
    path = write('runtime_dir = "/from/file"\nnonsense = 1\n')
    assert config.runtime_dir(None, path) == "/from/file"
    with pytest.raises(ConfigError):
        config.runtime_dir(None, write("runtime_dir = 1"))


def test_without_root_it_is_the_users_own_or_has_to_be_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert config.runtime_dir(None, None) == "/run/user/1000/lock-supervisor"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(config.NoRundirError, match="--runtime-dir") as caught:
        config.runtime_dir(None, None)
    assert caught.value.exit_code == 2
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert config.runtime_dir(None, None) == "/run/lock-supervisor"
