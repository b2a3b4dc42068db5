"""What does every interop test get? Disks, and a host with stock libvirt that it leaves clean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.libvirt import Host, Hosts


@pytest.fixture(scope="session")
def direct_host(libvirt_hosts: Hosts) -> Host:
    return libvirt_hosts.start(lock_manager="lockd")


@pytest.fixture
def host(direct_host: Host) -> Iterator[Host]:
    """Give a test a host in direct mode, without domains."""
    yield direct_host
    direct_host.clear()
