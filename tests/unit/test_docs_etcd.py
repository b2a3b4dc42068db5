"""Is what docs/etcd.md shows what the product takes, does, and was measured to do?"""

from __future__ import annotations

import re
import tomllib

import pytest

from lockplugins.etcd.plugin import EtcdPlugin
from lockplugins.etcd.timing import Timing
from tests.support.sources import read
from tests.support.stand_ins import CARRIER

# Which tests show what the table of outages says: of each row the first words.
SHOWN = {
    "the leader dies": {
        "tests/integration/test_etcd_plugin.py": "three_members_with_tls_and_users_serve_a_guest",
        "tests/faults/test_etcd_cut_off.py": "no_guest_dies_of_leaders_that_do",
    },
    "no quorum for K": {
        "tests/faults/test_etcd_faults.py": "without_a_quorum_the_guest_is_dead_within",
        "tests/faults/test_etcd_cut_off.py": "the_guest_of_a_guard_that_proves_nothing_is_dead",
    },
    "a member answers from before": {
        "tests/faults/test_etcd_cut_off.py": "two_of_three_members_frozen_the_third_proves_nothing"
    },
    "members are slow": {
        "tests/unit/test_etcd_connection.py": "who_is_slow_is_answered_in_a_later_turn"
    },
    "somebody revokes sessions": {
        "tests/integration/test_etcd_plugin.py": "a_session_that_ends_early_is_healed"
    },
    "the database is full": {
        "tests/integration/test_etcd_full.py": "a_full_database_refuses_who_starts"
    },
    "`etcdctl auth enable`": {
        "tests/integration/test_etcd_users.py": "a_guest_proves_nothing_while_users_are_switched"
    },
    "`attach` or `detach`": {
        "tests/faults/test_etcd_faults.py": "a_detach_without_an_answer_is_in_doubt_until",
        "tests/integration/test_etcd_giving_up.py": "a_release_without_an_answer_is_in_doubt",
    },
    "users or roles change": {
        "tests/integration/test_etcd_role.py": "guests_go_on_when_users_and_roles_change",
        "tests/integration/test_etcd_plugin.py": "a_guest_logs_in_once_and_again",
    },
    "certificates are replaced": {
        "tests/integration/test_etcd_trust.py": "certificates_that_are_replaced_serve_the_next"
    },
    "the guard is killed": {
        "tests/faults/test_etcd_faults.py": "a_frozen_guard_is_ended_by_the_kernel",
        "tests/faults/test_etcd_cut_off.py": "the_guest_of_a_guard_that_proves_nothing_is_dead",
    },
    "a wall clock": {
        "tests/faults/test_etcd_cut_off.py": "the_guest_of_a_guard_that_proves_nothing_is_dead"
    },
    "the guest ends": {
        "tests/conformance/test_death_frees.py": "a_waiter_gets_the_lease_when_the_guest_is_dead"
    },
    "the guest got SIGKILL": {
        "tests/faults/test_etcd_faults.py": "what_a_guest_that_sleeps_uninterruptibly_has_is_kept"
    },
    "somebody deletes an *owner's*": {
        "tests/integration/test_etcd_plugin.py": "an_owner_key_that_is_deleted_is_a_loss"
    },
    "`endpoints` name members": {
        "tests/integration/test_etcd_doctor.py": "members_of_two_clusters_are_told_apart"
    },
    "a guest is parked": {
        "tests/integration/test_etcd_giving_up.py": "what_was_given_up_comes_back_however_long",
        "tests/faults/test_etcd_faults.py": "a_guest_is_parked_while_etcd_is_away",
    },
    "somebody restores a backup": {
        "tests/integration/test_etcd_restored.py": "a_backup_has_forgotten_who_came_since"
    },
    "two hosts know one disk": {
        "tests/integration/test_etcd_doctor.py": "doctor_sees_the_cluster_well_and_says"
    },
}


@pytest.fixture
def page() -> str:
    return read("docs/etcd.md")


def test_its_configuration_is_understood(page: str) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    config = tomllib.loads(text)
    table = {
        key: ",".join(value) if isinstance(value, list) else str(value)
        for key, value in config["etcd"].items()
    }
    assert set(table) == set(EtcdPlugin.CONFIG_KEYS)
    assert EtcdPlugin(table, CARRIER).timing.failover_s == Timing(None).failover_s
    assert config["plugin"] == EtcdPlugin.name


def test_its_times_are_the_plugins(page: str) -> None:
    (text,) = re.findall(r"^## Every time follows.*?^## ", page, re.DOTALL | re.MULTILINE)
    told = [float(number) for number in re.findall(r"([\d.]+) s \|$", text, re.MULTILINE)]
    timing = Timing(None)
    watch_s = timing.watch_of(timing.proof_s)
    assert told == [
        timing.failover_s, timing.every_s, timing.proof_s, timing.ttl_s, watch_s,
        timing.longest_failover_s(),
    ]  # fmt: skip


def test_how_many_guests_it_says_was_measured(page: str) -> None:
    sizes = re.findall(r"^\| etcd, .*\|$", page, re.MULTILINE)
    assert len(sizes) > 1
    measured = read("docs/measured/etcd-bench.md").splitlines()
    assert [row for row in sizes if row not in measured] == []


@pytest.mark.parametrize("row", SHOWN)
def test_what_happens_in_an_outage_is_shown_by_a_test(row: str, page: str) -> None:
    assert f"\n| {row}" in page.partition("## What happens when")[2]
    for path, name in SHOWN[row].items():
        assert f"\ndef test_{name}" in read(path)
