"""Is the guard's argv the whole of its spec, and every word of it checked?"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockplugins.contract import ConfigError, Mode, Resource, ResourceType
from supervisor import spec
from supervisor.spec import Containment, GuestSpec, Key, OnLockFailure

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

UUID = "5f2c1d3e-0000-4000-8000-00000000000a"
GOOD = ["name=web1", f"uuid={UUID}", "runtime_dir=/run/x"]

# Text as it comes from argv: any bytes but NUL.
texts = st.binary(min_size=1, max_size=9).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)
words = st.text("abcdefgh_", min_size=1, max_size=9)
durations = st.sampled_from([0.0, 0.5, 10.0, 3600.0, float("inf")])


@st.composite
def disks(draw: DrawFn) -> Resource:
    path = "/" + draw(texts)
    return Resource(path, draw(st.sampled_from(Mode.ALL)), identity=draw(st.none() | texts) or None)


@st.composite
def leases(draw: DrawFn) -> Resource:
    lockspace, key = draw(words), draw(words)
    path = draw(st.just("") | texts.map(lambda text: "/" + text))
    return spec.parse_lease(f"{lockspace}:{key}:{path}:7" if path else f"{lockspace}:{key}")


@st.composite
def specs(draw: DrawFn) -> GuestSpec:
    made = GuestSpec("web1", UUID, "/run/x")
    for name, strategy in {
        "id": st.none() | texts,
        "plugin": words,
        "classes": st.dictionaries(words, words.map(lambda word: f"{word}:C"), max_size=2),
        "import_dirs": st.lists(texts, max_size=2),
        "config": st.dictionaries(
            words, st.dictionaries(words, texts, min_size=1, max_size=2), max_size=2
        ),
        "resources": st.lists(disks() | leases(), max_size=3),
        "copied": st.lists(texts, max_size=2),
        "wait_s": durations,
        "incoming": st.booleans(),
        "on_lockfailure": st.sampled_from(OnLockFailure.ALL),
        "containment": st.sampled_from(Containment.ALL),
        "monitor": st.booleans(),
        "stop_timeout_s": durations,
        "ready_fd": st.none() | st.integers(0, 10**6),
        "handshake_fd": st.none() | st.integers(0, 10**6),
    }.items():
        setattr(made, name, draw(strategy))
    return made


def values(made: GuestSpec) -> dict[str, object]:
    resources = [
        tuple(getattr(resource, field) for field in Resource.__slots__)
        for resource in made.resources
    ]
    return {**vars(made), "resources": resources}


@given(specs(), st.lists(texts, min_size=1, max_size=3))
def test_the_guards_argv_says_all(made: GuestSpec, command: list[str]) -> None:
    python, isolated, no_site, main, *rest = [*spec.render(made), *command]
    assert (isolated, no_site) == ("-I", "-S")
    assert os.path.samefile(python, sys._base_executable)  # type: ignore[attr-defined]
    assert main.endswith("/supervisor/guard/__main__.py")
    parsed, heard = spec.parse(rest)
    assert heard == command
    assert values(parsed) == values(made)


def test_command_is_what_follows_the_first_double_dash() -> None:
    _, command = spec.parse([*GOOD, "--", "qemu", "--", "wait=9"])
    assert command == ["qemu", "--", "wait=9"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([*GOOD], "no --"),
        ([*GOOD, "--"], "no COMMAND"),
        ([*GOOD, "nonsense=1", "--", "x"], "nonsense=1"),
        ([*GOOD, "wait", "--", "x"], "wait"),
        ([*GOOD, "wait=soon", "--", "x"], "wait=soon"),
        ([*GOOD, "wait=-1", "--", "x"], "wait=-1"),
        ([*GOOD, "wait=nan", "--", "x"], "wait=nan"),
        ([*GOOD, "stop_timeout=", "--", "x"], "stop_timeout="),
        ([*GOOD, "containment=none", "--", "x"], "allowed: auto pdeathsig pidns"),
        ([*GOOD, "on_lockfailure=ignore", "--", "x"], "allowed: kill"),
        ([*GOOD, "monitor=yes", "--", "x"], "allowed: on off"),
        ([*GOOD, "disk=/a", "--", "x"], "allowed: exclusive shared"),
        ([*GOOD, "identity=a", "--", "x"], "no disk= before it"),
        ([*GOOD, "lease=a", "--", "x"], "lease a"),
        ([*GOOD, "ready_fd=-1", "--", "x"], "ready_fd=-1"),
        ([*GOOD, "handshake_fd=\u0663", "--", "x"], "handshake_fd="),
        ([GOOD[0], GOOD[1], "--", "x"], "runtime_dir"),
        ([GOOD[0], GOOD[2], "--", "x"], "uuid"),
        (["name=", GOOD[1], GOOD[2], "--", "x"], "name"),
        ([GOOD[0], "uuid=web1", GOOD[2], "--", "x"], "uuid web1"),
        (["name=a\nb", GOOD[1], GOOD[2], "--", "x"], "a\\x0ab"),
    ],
)
def test_a_word_that_is_wrong_is_named(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec.parse(words)
    assert named in str(caught.value)
    assert caught.value.exit_code == 2


def test_every_key_is_read() -> None:
    """Each key in ALL is accepted by `parse`, with some value."""
    samples = {
        Key.NAME: "n",
        Key.UUID: UUID,
        Key.CLASS: "a=b:C",
        Key.CONFIG: "file.x=1",
        Key.DISK: "shared:/a",
        Key.LEASE: "a:b",
        Key.WAIT: "1",
        Key.INCOMING: "on",
        Key.ON_LOCKFAILURE: "kill",
        Key.CONTAINMENT: "auto",
        Key.MONITOR: "off",
        Key.STOP_TIMEOUT: "1",
        Key.READY_FD: "3",
        Key.HANDSHAKE_FD: "4",
    }
    default = values(GuestSpec("web1", UUID, "/run/x"))
    for key in Key.ALL:
        before = ["disk=exclusive:/a"] if key == Key.IDENTITY else []
        parsed, _ = spec.parse([*GOOD, *before, f"{key}={samples.get(key, 'x')}", "--", "x"])
        if key not in {Key.UUID, Key.ON_LOCKFAILURE, Key.CONTAINMENT}:
            assert values(parsed) != default, key


@pytest.mark.parametrize("name", ["", "a" * 65, "\u00e9" * 33, "a\tb", "a\x7fb", "a\x85b"])
def test_a_name_has_1_to_64_bytes_and_no_control_characters(name: str) -> None:
    with pytest.raises(ConfigError, match="guest name"):
        spec.check_name(name)


@pytest.mark.parametrize("name", ["a", "a" * 64, "\u00e9" * 32, "web 1", os.fsdecode(b"\xff")])
def test_any_other_name_is_a_name(name: str) -> None:
    spec.check_name(name)


@pytest.mark.parametrize(
    "uuid", ["", UUID.upper(), UUID[:-1], UUID.replace("-", ""), UUID[:-1] + "g", f" {UUID}"]
)
def test_a_uuid_has_its_canonical_form(uuid: str) -> None:
    with pytest.raises(ConfigError, match="uuid"):
        spec.check_uuid(uuid)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("space:key", ("space", "key", "", 0)),
        ("space:key:/dir", ("space", "key", "/dir", 0)),
        ("space:key:/dir:1048576", ("space", "key", "/dir", 1048576)),
        ("space:key:/dir:with:colons:9", ("space", "key", "/dir:with:colons", 9)),
        ("space:key:/dir:", ("space", "key", "/dir:", 0)),
        ("space:key:/dir:x", ("space", "key", "/dir:x", 0)),
    ],
)
def test_an_explicit_lease_is_read(text: str, parts: tuple[str, str, str, int]) -> None:
    lease = spec.parse_lease(text)
    assert (lease.lockspace, lease.key, lease.path, lease.offset_bytes) == parts
    assert (lease.type, lease.mode) == (ResourceType.LEASE, Mode.EXCLUSIVE)


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("qemu-system-x86_64", True),
        ("/usr/bin/qemu-system-aarch64", True),
        ("qemu-kvm", True),
        ("/usr/libexec/qemu-kvm", True),
        ("kvm", True),
        ("qemu-img", False),
        ("/usr/bin/kvm-ok", False),
        ("qemu-system-x86_64/", False),
        ("", False),
    ],
)
def test_qemu_is_known_by_its_basename(command: str, *, answer: bool) -> None:
    assert spec.is_qemu(command) is answer
