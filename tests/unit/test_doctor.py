"""Does doctor judge what it reads as the kernel and libvirt mean it, and say it plainly?"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import prctl
import pytest

from lockplugins.file.examine import CHECKS
from lockplugins.sanlock.examine import CHECKS as SANLOCK_CHECKS
from supervisor.cli import main, render
from supervisor.doctor import here, libvirt
from supervisor.doctor.asking import DEADLINE_S, Check, Trial, ask
from supervisor.doctor.names import Name
from supervisor.spec import GuestSpec
from tests.support.sources import read

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

UUID = "00000000-0000-0000-0000-000000000000"
FILES = "file_lockspace_dir"
STATUS = "Name:\tx\nUid:\t{0}\t{0}\t{0}\t{0}\nCapEff:\t{1:016x}\n"
ALL = (1 << 41) - 1


def test_every_check_is_explained() -> None:
    rows = re.findall(r"^\| ([a-z ]+) \|", read("docs/doctor.md"), re.MULTILINE)
    told = [row for row in rows if row not in {"check", "filesystem", "overlay"}]
    assert set(told) >= {*Name.ALL, *CHECKS, *SANLOCK_CHECKS}
    assert len(told) == len(set(told))


@pytest.mark.parametrize(
    ("uid", "capabilities", "well", "words"),
    [
        (0, ALL, True, "root, with every capability that a guard uses"),
        (0, ALL & ~(1 << 24), False, "root, without CAP_SYS_RESOURCE (protection from the OOM"),
        (1000, 0, False, "user 1000, without CAP_KILL (signal guests of other users), CAP_SYS_P"),
    ],
)
def test_a_user_is_judged_by_capabilities(
    uid: int, capabilities: int, words: str, *, well: bool
) -> None:
    check = here.user(STATUS.format(uid, capabilities))
    assert (check.check, check.ok) == (Name.USER, well)
    assert check.evidence.startswith(words)
    assert bool(check.mend) == (not well)


@pytest.mark.parametrize(
    ("cgroups", "well", "words"),
    [
        ("6:freezer:/\n4:memory:/vms\n0::/\n", True, "in the root of the version 1 freezer"),
        ("6:devices,freezer:/vms/a:b\n0::/\n", False, "in /vms/a:b of the version 1 freezer: a"),
        ("0::/system.slice/x.service\n", True, "version 2 (/system.slice/x.service): what it"),
        ("4:memory:/\n", True, "version 2 (none)"),
    ],
)
def test_a_version_1_freezer_that_somebody_may_freeze_weakens(
    cgroups: str, words: str, *, well: bool
) -> None:
    check = here.freezer(cgroups)
    assert (check.check, check.ok) == (Name.FREEZER, well)
    assert check.evidence.startswith(words)


@pytest.mark.parametrize(
    ("qemu", "lockd", "plugins", "table", "well", "words", "mend"),
    [
        (None, None, "file", {}, True, "not installed", ""),
        ("", None, "file", {}, False, "lock_manager is not set", 'set lock_manager = "lockd"'),
        ('#lock_manager = "lockd"\n', None, "file", {}, False, "lock_manager is not set", "set"),
        ('lock_manager = "lockd"\n', None, "file", {}, True, "with locks where ours", ""),
        ("x = [ 1 ]\n lock_manager='lockd'\n", None, "file", {}, True, "with locks where", ""),
        ('lock_manager = "lockd"', None, "nop", {}, False, "do not use plugin file", "add plugin"),
        (
            'lock_manager = "lockd"',
            f'{FILES} = "/locks"',
            "file",
            {},
            False,
            f"{FILES} is /locks; ours is not set",
            f'set {FILES} = "/locks" in [file] of /our.toml',
        ),
        (
            'lock_manager = "lockd"',
            "",
            "file",
            {FILES: "/locks"},
            False,
            f"{FILES} is not set; ours is /locks: they see each other's locks on images",
            f"remove {FILES} in [file] of /our.toml",
        ),
        ('lock_manager = "lockd"', f'{FILES} = "/l/"', "nop+file", {FILES: "/l"}, True, "/l", ""),
        (
            'lock_manager = "lockd"',
            "auto_disk_leases = 0",
            "file",
            {},
            False,
            "auto_disk_leases = 0",
            "remove that",
        ),
        ('lock_manager = "sanlock"', None, "file", {}, False, "neither sees", "use plugin sanlock"),
    ],
)
def test_libvirts_settings_are_compared_with_ours(
    tmp_path: Path,
    *,
    qemu: str | None,
    lockd: str | None,
    plugins: str,
    table: Mapping[str, str],
    well: bool,
    words: str,
    mend: str,
) -> None:
    for name, text in (("qemu.conf", qemu), ("qemu-lockd.conf", lockd)):
        if text is not None:
            (tmp_path / name).write_text(text)
    check = libvirt.beside(plugins, {"file": table}, str(tmp_path), "/our.toml")
    assert (check.check, check.ok) == (Name.LIBVIRT, well)
    assert words in check.evidence
    assert check.mend.startswith(mend)
    assert bool(check.mend) == (not well)


@pytest.mark.parametrize(
    ("theirs", "table", "words"),
    [
        ("", {}, "without auto_disk_leases: its guests hold no lease on their disks"),
        ("auto_disk_leases = 0\n", {}, "without auto_disk_leases: "),
        (
            'auto_disk_leases = 1\ndisk_lease_dir = "/a"\n',
            {"disk_lease_dir": "/b"},
            "where disk_lease_dir is /a; ours is /b: neither sees the other",
        ),
        (
            "auto_disk_leases = 1\nhost_id = 1\n",
            {"host_id": "2"},
            "where host_id is 1; ours is 2: whoever comes second is refused",
        ),
        (
            'auto_disk_leases = 1\nhost_id = 1\ndisk_lease_dir = "/a/"\n',
            {"host_id": "1", "disk_lease_dir": "/a"},
            "",
        ),
    ],
)
def test_libvirts_settings_of_sanlock_are_compared_with_ours(
    tmp_path: Path, theirs: str, table: Mapping[str, str], words: str
) -> None:
    (tmp_path / "qemu.conf").write_text('lock_manager = "sanlock"\n')
    (tmp_path / "qemu-sanlock.conf").write_text(theirs)
    check = libvirt.beside("vm+sanlock", {"sanlock": table}, str(tmp_path))
    assert check.ok == (words == "")
    assert words in check.evidence
    assert bool(check.mend) == (not check.ok)
    if check.ok:
        assert check.evidence == 'lock_manager = "sanlock", with leases where ours are: /a'


def test_settings_of_libvirts_that_cannot_be_read_are_no_good_news(tmp_path: Path) -> None:
    (tmp_path / "qemu.conf").mkdir()
    check = libvirt.beside("file", {}, str(tmp_path))
    assert not check.ok
    assert check.evidence == f"cannot be read: {tmp_path}/qemu.conf: Is a directory (EISDIR)"


def test_a_person_sees_each_check_its_evidence_and_the_mend(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    good = Check("pidfd", True, "seen\ndead")
    weak = Check("exclusion", False, "does not", "move it", "/a")
    render.put_checks([good, weak])
    assert capsysbinary.readouterr().out.decode().split("\n") == [
        "ok    pidfd         seen\\x0adead",
        "WEAK  exclusion /a  does not",
        "                    -> move it",
        "",
        "1 of 2 checks found what weakens the promise: WEAK, and the mend.",
        "",
    ]
    render.put_checks([good])
    last = b"\nAll 1 checks are good: nothing found here weakens the promise.\n"
    assert capsysbinary.readouterr().out.endswith(last)


def test_a_check_is_json_with_null_for_nothing() -> None:
    assert Check("pidfd", True, "dead").as_json() == {
        "check": "pidfd",
        "ok": True,
        "evidence": "dead",
        "mend": None,
        "subject": None,
    }


def guest(plugin: str) -> GuestSpec:
    spec = GuestSpec("doctor", UUID, "/")
    spec.plugin = plugin
    spec.classes = {
        name: f"tests.support.examined:{name.capitalize()}"
        for name in ("speaking", "printing", "failing", "dying", "missing")
    }
    spec.import_dirs = [os.path.dirname(prctl.__file__)]
    return spec


@pytest.mark.parametrize(
    ("plugin", "well", "words"),
    [
        ("speaking", [True, False], "the daemon sleeps"),
        ("printing", [True], "printing can do: nothing"),
        ("failing", [False], "its server is gone"),
        ("dying", [False], "its trial ended without an answer (status 7)"),
        ("missing", [False], "tests.support.examined:Missing: "),
        ("unheard", [False], "there is none of that name"),
    ],
)
def test_a_plugin_speaks_for_itself_and_its_failure_is_a_finding(
    plugin: str, well: list[bool], words: str
) -> None:
    checks = list(ask([Trial(Name.PLUGIN, guest(plugin), subject="/a")]))
    assert [check.ok for check in checks] == well
    assert words in checks[-1].evidence
    assert {check.subject for check in checks} == {"/a"}


def test_a_guard_that_could_not_load_prctl_is_a_finding() -> None:
    lacking = guest("nop")
    lacking.import_dirs = []
    (check,) = ask([Trial(Name.PYTHON, lacking)])
    assert (check.check, check.ok) == (Name.PYTHON, False)
    assert check.evidence == "cannot be tried: No module named '_prctl'"
    assert check.mend.startswith("install it for /")


def test_a_configuration_that_is_wrong_is_a_finding_not_the_end(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "config.toml").write_text("plugin = 3\n")
    arguments = ["--config", str(tmp_path / "config.toml"), "--runtime-dir", str(tmp_path)]
    assert main.execute(["doctor", "--json", *arguments]) == 1
    answer = json.loads(capsysbinary.readouterr().out)
    assert answer["ok"] is False
    wrong = answer["checks"][0]
    assert (wrong["check"], wrong["ok"]) == (Name.CONFIGURATION, False)
    assert "plugin = 3 of " in wrong["evidence"]
    assert [check["check"] for check in answer["checks"]][1:4] == ["user", "freezer", "libvirt"]


def test_what_has_a_deadline_has_one_that_a_person_waits_for() -> None:
    assert 1 < DEADLINE_S <= 30
