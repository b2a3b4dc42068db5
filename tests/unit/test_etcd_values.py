"""Do names, values, bounds and transactions of the etcd plugin mean what others rely on?"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode

import hypothesis
import pytest
from hypothesis import strategies as st

from lockplugins.contract import ConfigError, Guest, LockError, Mode
from lockplugins.etcd import examine, keys
from lockplugins.etcd.client import Answer, Client, UnknownOutcomeError
from lockplugins.etcd.connection import Endpoint
from lockplugins.etcd.plugin import EtcdPlugin
from lockplugins.etcd.timing import DRIFT, KILL_S, LEAST_FAILOVER_S, Timing
from lockplugins.etcd.transaction import KeyValue, Outcome, Transaction
from tests.support.stand_ins import CARRIER

GUEST = Guest("5f2c1d3e-0000-4000-8000-000000000001", "web1")
WRITTEN = keys.Owner("0123", GUEST, 4711, 12.0).as_value()
FAILOVERS = st.floats(LEAST_FAILOVER_S, 3600)


@hypothesis.given(FAILOVERS, FAILOVERS)
def test_a_taker_starts_after_any_owner_is_dead(takers: float, owners: float) -> None:
    taker, owner = Timing(str(takers)), Timing(str(owners))
    dead = owner.proof_s * DRIFT + KILL_S  # of true time, by a slow clock
    assert taker.watch_of(owner.proof_s) / DRIFT >= dead  # by a fast one


@hypothesis.given(FAILOVERS)
def test_a_guest_is_taken_over_within_the_setting(failover: float) -> None:
    timing = Timing(str(failover))
    assert timing.longest_failover_s() <= failover
    assert timing.ttl_s >= 2
    assert timing.every_s < timing.ttl_s / 2
    assert timing.every_s < timing.proof_s / 3


def test_the_default_is_what_the_documentation_says() -> None:
    timing = Timing(None)
    found = (timing.failover_s, timing.ttl_s, timing.every_s, timing.proof_s, timing.watch_s)
    assert found == (30, 10, 3, 12, 15)


@pytest.mark.parametrize("wrong", ["14.9", "0", "-30", "nan", "inf", "3601", "soon", ""])
def test_a_time_that_cannot_hold_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="allowed: 15 to 3600 seconds"):
        Timing(wrong)


@hypothesis.given(st.text(max_size=40), st.text(max_size=40))
def test_no_name_looks_like_a_part_of_another_ones_keys(one: str, other: str) -> None:
    hypothesis.assume(one != other)
    mine, theirs = (keys.Place("fleet", "disk", name) for name in (one, other))
    for key in (mine.owner, mine.readers + "sid", mine.parked):
        assert not key.startswith(theirs.below)
    assert keys.decoded(mine.below.split("/")[-2]) == one


@pytest.mark.parametrize("name", ["", "a/b", "..", "ä", os.fsdecode(b"\xff"), "a b", "%2F"])
def test_every_name_comes_back_from_its_key(name: str) -> None:
    assert keys.decoded(keys.encoded(name)) == name
    assert "/" not in keys.encoded(name)
    assert keys.encoded(name).isascii()


def test_a_name_that_nobody_could_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than 512 bytes"):
        keys.encoded("x" * 600)


def test_a_value_says_who_it_is_and_is_one_of_a_kind() -> None:
    read = keys.read_owner(WRITTEN)
    assert read is not None
    assert (read.sid, read.uuid, read.pid, read.proof_s) == ("0123", GUEST.uuid, 4711, 12.0)
    assert read.as_value() == WRITTEN


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "[]",
        "{}",
        "null",
        "[" * 90_000,
        '{"sid": 1}',
        '{"sid": "a", "proof_s": "12"}',
        "\0",
        "\ud800",
        *(
            json.dumps(json.loads(WRITTEN) | {field: value})
            for field, value in (
                ("proof_s", float("nan")),
                ("proof_s", float("inf")),
                ("proof_s", -5),
                ("proof_s", 0),
                ("proof_s", 10**400),
                ("sid", ""),
                ("sid", "../0123"),
                ("sid", "\ud800"),
                ("host", "\ud800"),
                ("pid", 0),
                ("pid", 1 << 40),
                ("guest", "x" * 10_000),
            )
        ),
    ],
)
def test_what_we_have_not_written_names_nobody(value: str) -> None:
    assert keys.read_owner(value) is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://a", "http://a:2379"),
        ("https://a:1", "https://a:1"),
        ("[::1]:2379", "http://[::1]:2379"),
        ("10.0.0.1", "http://10.0.0.1:2379"),
    ],
)
def test_an_endpoint_is_a_url_or_host_and_port(url: str, shown: str) -> None:
    assert str(Endpoint(url)) == shown


@pytest.mark.parametrize(
    "url",
    [
        "", "ftp://a", "http://", "http://a:x", "http://a/v3", "a:99999", "http://[::1", "http://[z]",
        "unix:///run/etcd", "http://user:secret@a", "http://:secret@a", "http://a/#b", "http://a?b",
    ],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot use endpoint"):
        Endpoint(url)


@pytest.mark.parametrize("host", ["a..b", "a" * 300])
def test_what_can_be_no_name_is_not_looked_up(host: str) -> None:
    with pytest.raises(LockError, match="cannot resolve etcd endpoint"):
        Endpoint(f"http://{host}").resolve()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"ca_cert": "/ca"}, "endpoint http://a:2379: there are certificates, and it is not https"),
        ({"endpoints": "https://a,b", "ca_cert": "/ca"}, "endpoint http://b:2379: there are cert"),
        ({"username": "fleet"}, "username: there is no password_file with it"),
        ({"password_file": "/p"}, "password_file: there is no username with it"),
        ({"key": "/k"}, "key: there is no cert with it"),
    ],
)
def test_what_is_to_protect_is_not_left_out_without_a_word(
    table: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        EtcdPlugin({"endpoints": "a"} | table, CARRIER)


def test_what_proves_nothing_is_not_asked() -> None:
    nobody = Client([Endpoint("http://127.0.0.1:1")])
    compares = Transaction()
    compares.demand_value("/k", "v")
    compares.read("/k")  # in one branch alone
    with pytest.raises(AssertionError, match="proves nothing"):
        compares.commit(nobody, 0, "a proof")


@pytest.mark.parametrize(
    "lie",
    [
        {},
        {"header": 1},
        {"header": {}},
        {"header": {"revision": "x"}},
        {"header": {"revision": "1"}, "responses": None},
        {"header": {"revision": "1"}, "responses": [1]},
        {"header": {"revision": "1"}, "responses": [{"response_range": []}]},
        {"header": {"revision": "1"}, "responses": [{"response_range": {"kvs": [{}]}}]},
        {
            "header": {"revision": "1"},
            "responses": [{"response_range": {"kvs": [{"key": "/w=="}]}}],
        },
    ],
)
def test_an_answer_that_is_none_is_a_doubt(lie: dict[str, object]) -> None:
    with pytest.raises(UnknownOutcomeError, match="cannot understand http://a:1: its answer is no"):
        Outcome(Answer({"succeeded": True} | lie, 0.0, "http://a:1", doubtful=False))


def test_bytes_that_are_no_text_are_demanded_as_they_were_read() -> None:
    raw = b64encode(b"handed \xff").decode()
    kept = KeyValue({"key": b64encode(b"/k").decode(), "value": raw})
    transaction = Transaction()
    transaction.demand_value(kept.key, kept.value)
    assert transaction._demands[0]["value"] == raw


def test_modes_have_keys_of_their_own() -> None:
    place = keys.Place("fleet", "disk", "id:x")
    assert place.claim(Mode.EXCLUSIVE, "01") == "/lsup/v1/fleet/disk/id:x/w"
    assert place.claim(Mode.SHARED, "01") == "/lsup/v1/fleet/disk/id:x/r/01"
    assert json.dumps(keys.session("a/b", "01")) == '"/lsup/v1/a%2Fb/sess/01"'
    assert b64decode("L2w=") == b"/l"


@pytest.mark.parametrize(
    ("version", "well", "named"),
    [
        ("3.3.25", False, False),
        ("3.4.23", True, True),
        ("3.4.37", True, True),
        ("3.4.38", True, False),
        ("3.5.22", True, True),
        ("3.5.23", True, False),
        ("3.6.4", True, True),
        ("3.6.5", True, False),
        ("3.7.0", True, False),
        ("4.0.0", True, False),
        ("not known", False, False),
    ],
)
def test_releases_with_faults_of_leases_are_named(version: str, well: bool, named: bool) -> None:  # noqa: FBT001  # a table's columns
    _check, found, words, _mend = examine.of_version(version)
    assert (found, "can end early, or live on" in words) == (well, named)
