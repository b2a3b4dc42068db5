"""What is said of the guest as a whole: is it QEMU, its names, is there a guest at all?"""

from __future__ import annotations

import pytest

from supervisor.discovery.disks import guest_names, is_qemu, passes_through

PROBE = (
    "-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg "
    "-qmp unix:/run/q,server=on,wait=off -pidfile /run/p -daemonize"
)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("qemu-system-x86_64", True),
        ("/usr/bin/qemu-system-s390x", True),
        ("./kvm", True),
        ("/usr/libexec/qemu-kvm", True),
        ("qemu-img", False),
        ("/opt/qemu-system-x86_64/run", False),
        ("kvmtool", False),
        ("sleep", False),
    ],
)
def test_qemu_is_told_by_its_name(command: str, expected: bool) -> None:  # noqa: FBT001 (a row)
    assert is_qemu(command) is expected


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], (None, None)),
        (["-name", "web1"], ("web1", None)),
        (["-name", "guest=web1,debug-threads=on", "-uuid", "U"], ("web1", "U")),
        (["-name", "a,,b,process=p"], ("a,b", None)),
        (["-name", "process=p"], (None, None)),
        (["-name", "a", "-name", "debug-threads=on"], ("a", None)),
        (["-name", "a", "-name", "b", "-uuid", "1", "-uuid", "2"], ("b", "2")),
        (["--name", "a"], ("a", None)),
        (["-append", "-name", "x"], (None, None)),
        (["-frobnicate", "1", "-name", "a"], ("a", None)),
        (["-name"], (None, None)),
    ],
)
def test_the_guests_names(args: list[str], expected: tuple[str | None, str | None]) -> None:
    assert guest_names(["qemu-system-x86_64", *args]) == expected


@pytest.mark.parametrize(
    "line",
    [
        "-help",
        "-h",
        "--help",
        "-version",
        "--version",
        "-hda a.img -help",
        "-machine help",
        "-M ?",
        "-M q35,help",
        "-cpu help",
        "-accel help",
        "-device help",
        "-device virtio-blk-pci,help",
        "-device virtio-blk-pci,?",
        "-device driver=help",
        "-object help",
        "-object iothread,id=x,help",
        "-chardev help",
        "-netdev help",
        "-nic model=help",
        "-net nic,model=?",
        "-audiodev help",
        "-display help",
        "-vga help",
        "-d help",
        "-trace help",
        "-tpmdev help",
        PROBE,
        PROBE.replace("-machine none", "-machine type=none"),
    ],
)
def test_a_command_line_without_a_guest_passes_through(line: str) -> None:
    assert passes_through(["qemu-system-x86_64", *line.split()])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-S",
        "-name -help",
        "-append help",
        "-name help",
        "-k help",
        "-cpu qemu64,help",
        "-cpu help -cpu qemu64",
        "-d help -d int",
        "-vga help -vga std",
        "-device virtio-blk-pci,drive=help-me",
        "-device virtio-blk-pci,serial=,,help",
        "-device virtio-blk-pci,serial=help",
        '-device {"driver":"help"}',
        "-device help -hda a.img",
        "-device help a.img",
        "-device help -readconfig c",
        "-frobnicate -help",
        "-machine none",
        PROBE.replace("-daemonize", ""),
        PROBE.replace("-machine none", "-machine q35"),
        PROBE + " -blockdev null-co,node-name=n",
        PROBE + " -hda a.img",
    ],
)
def test_in_doubt_there_is_a_guest(line: str) -> None:
    assert not passes_through(["qemu-system-x86_64", *line.split()])
