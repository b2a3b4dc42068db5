"""Is a writable disk without a lease refused where leases are required?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import ConfigError
from supervisor import specify
from tests.support.specifying import configured, given

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("unconfigured")

QEMU = "qemu-system-x86_64"
REQUIRED = "require_lease_for_disks = true\n"
WRITABLE = (QEMU, "-hda", "a.raw")
READ_ONLY = (QEMU, "-drive", "file=a.raw,format=raw,readonly=on")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (WRITABLE, {}),
        (WRITABLE, {"no_discover": True, "disk": ("a.raw",)}),
        (WRITABLE, {"no_discover": True, "disk": ("./../here/a.raw",)}),
        (READ_ONLY, {"no_discover": True}),
        ((QEMU,), {"no_discover": True}),
        (("/bin/sleep",), {"disk": ("a.raw",)}),
    ],
)
def test_leased_disks_satisfy_the_requirement(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    options: dict[str, object],
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    specify.build(given(*command, config=configured(REQUIRED), **options))


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (WRITABLE, {"no_discover": True}),
        (WRITABLE, {"no_discover": True, "disk": ("b.raw",)}),
        (WRITABLE, {"no_discover": True, "disk": ("a.raw,shared",)}),
        (WRITABLE, {"no_discover": True, "lease": ("s:k",)}),
        (WRITABLE, {"plugin": "nop"}),
        (("/bin/sleep",), {"no_discover": True}),
    ],
)
def test_a_writable_disk_without_a_lease_is_refused_where_required(
    command: tuple[str, ...], options: dict[str, object]
) -> None:
    specify.build(given(*command, **options))
    with pytest.raises(ConfigError, match="require_lease_for_disks is set") as caught:
        specify.build(given(*command, config=configured(REQUIRED), **options))
    assert caught.value.exit_code == 2
