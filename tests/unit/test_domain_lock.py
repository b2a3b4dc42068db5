"""Is a call about a domain that is not understood, or not there, refused with nothing touched?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import lockplugins
from lockplugins.contract import ConfigError, LockError, Resource, ResourceType
from supervisor import domain_lock
from supervisor.client import NoAnswerError
from supervisor.discovery.disk import Disk
from supervisor.discovery.domain_xml import Domain
from tests.support.domain import domain_xml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Call = Callable[[str | Domain, str], object]

LEASE = Resource("/leases", resource_type=ResourceType.LEASE, lockspace="prod", key="web1")
DISK = Disk("/disk", "exclusive", "a test")
CALLS: dict[str, Call] = {
    "process_start": lambda domain, base: domain_lock.process_start(
        lockplugins.load("nop"), domain, ["true"], runtime_dir=base
    ),
    "process_pause": lambda domain, base: domain_lock.process_pause(domain, runtime_dir=base),
    "process_resume": lambda domain, base: domain_lock.process_resume(
        domain, "state", runtime_dir=base
    ),
    "process_inquire": lambda domain, base: domain_lock.process_inquire(domain, runtime_dir=base),
    "image_attach": lambda domain, base: domain_lock.image_attach(domain, DISK, runtime_dir=base),
    "image_detach": lambda domain, base: domain_lock.image_detach(domain, DISK, runtime_dir=base),
    "lease_attach": lambda domain, base: domain_lock.lease_attach(domain, LEASE, runtime_dir=base),
    "lease_detach": lambda domain, base: domain_lock.lease_detach(domain, LEASE, runtime_dir=base),
}
WRONG: list[tuple[str | Domain, str]] = [
    ("<domain", "domain XML: malformed"),
    ("<domain><name>web1</name></domain>", "find guest web1: the domain has no uuid"),
    (Domain(None, None), "find guest without a name: the domain has no uuid"),
    (Domain("web1", "../web2"), "uuid ../web2: not 8-4-4-4-12"),
]


def public() -> set[str]:
    own = [value for value in vars(domain_lock).values() if callable(value)]
    names = {f.__name__ for f in own if f.__module__ == domain_lock.__name__}
    return {name for name in names if not name.startswith("_")}


def test_every_call_is_tried() -> None:
    assert set(CALLS) == public()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("domain", "words"), WRONG)
def test_a_domain_that_is_not_understood_is_refused(
    tmp_path: Path, call: str, domain: str | Domain, words: str
) -> None:
    with pytest.raises(LockError) as error:
        CALLS[call](domain, str(tmp_path))
    assert words in str(error.value)
    assert error.value.exit_code == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", sorted(set(CALLS) - {"process_start"}))
def test_a_guest_that_is_not_there_cannot_be_asked(tmp_path: Path, call: str) -> None:
    with pytest.raises(NoAnswerError, match="cannot ask the supervisor of guest"):
        CALLS[call](domain_xml("web1"), str(tmp_path))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["<disk device='cdrom'><target dev='sda'/></disk>", "<lease/>"])
def test_what_names_no_image_is_not_said_to_be_locked(tmp_path: Path, text: str) -> None:
    for call in (domain_lock.image_attach, domain_lock.image_detach):
        with pytest.raises(LockError) as error:
            call(domain_xml("web1"), text, runtime_dir=str(tmp_path))
        assert error.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "<disk><target dev='vda'/></disk>"])
def test_what_is_no_lease_is_not_said_to_be_held(tmp_path: Path, text: str) -> None:
    for call in (domain_lock.lease_attach, domain_lock.lease_detach):
        with pytest.raises(LockError) as error:
            call(domain_xml("web1"), text, runtime_dir=str(tmp_path))
        assert error.value.exit_code == 2


def test_the_guest_of_an_upper_case_uuid_is_found(tmp_path: Path) -> None:
    uuid = "5F2C1D3E-0000-4000-8000-00000000000A"
    with pytest.raises(NoAnswerError, match=uuid.lower()):
        domain_lock.process_inquire(Domain("web1", uuid), runtime_dir=str(tmp_path))


def test_two_leases_are_not_one(tmp_path: Path) -> None:
    lease = "<lease><lockspace>a</lockspace><key>b</key><target path='/c'/></lease>"
    with pytest.raises(ConfigError, match="it is not one <lease> element"):
        domain_lock.lease_attach(domain_xml("web1"), lease * 2, runtime_dir=str(tmp_path))
