"""What in a command line says of disks that cannot be understood, or not leased?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from supervisor.discovery.disks import discover
from tests.support import headers
from tests.support.errors.world import QEMU, Case, Said, qemu, raised, run

if TYPE_CHECKING:
    from tests.support.errors.world import World


def a_circle_of_images(world: World) -> Said:
    world.write("a.qcow2", headers.qcow2(backing=b"a.qcow2"))
    return world.says("run", "--", QEMU, "-hda", "a.qcow2")


def a_damaged_header(world: World) -> Said:
    world.write("disk.qcow2", headers.qcow2(backing=b"b" * 5000))
    return world.says("run", "--", QEMU, "-hda", "disk.qcow2")


def qemus_own_configuration(world: World) -> Said:
    path = world.write("qemu.conf", '[drive "d"]\nfile = "/srv/disk.raw"\n')
    return raised(lambda: discover([QEMU], world.directory, qemu_config=path))


def a_pipe_as_descriptor(world: World) -> Said:
    read_fd, write_fd = os.pipe()
    try:
        words = ["run", "--", QEMU, "-hda", f"/dev/fd/{read_fd}"]
        return world.says(*words, pass_fds=[read_fd])
    finally:
        os.close(read_fd)
        os.close(write_fd)


def an_image_that_cannot_be_opened(world: World) -> Said:
    words = ("run", "--", QEMU, "-hda", world.disk)
    return world.failing("openat:error=EIO", *words, path=world.disk)


def no_lease_for_a_writable_disk(world: World) -> Said:
    file = world.write("config.toml", "require_lease_for_disks = true\n")
    return world.says("run", "--config", file, "--no-discover", "--", QEMU, "-hda", "disk.raw")


def no_lease_for_a_program(world: World) -> Said:
    file = world.write("config.toml", "require_lease_for_disks = true\n")
    return world.says("run", "--config", file, "--no-discover", "--", "true")


def doctor_without_an_answer(world: World) -> Said:
    hanging = "lambda: select.select([], [], []), 0.1"
    return world.python_says(
        f"import select\nfrom supervisor.doctor.apart import answer\nanswer('the disks', {hanging})"
    )


CASES = (
    Case(2, run("--disk", ",shared", "true"),
         "The argument begins with a comma: usually a shell variable that is not set."),
    Case(2, run("--disk", "disk.raw,id=", "true"),
         "The identity is only needed where hosts know a disk by different paths; else leave "
         "`id=` out."),
    Case(2, run("--disk", "disk.raw,copied,shared", "true"),
         "A disk that a migration copies is written to, so its lease is exclusive."),
    Case(2, qemu("-frobnicate", "disk.raw"),
         "An option of a newer QEMU, or a misspelt one. If it names no disk, name the disks "
         "yourself."),
    Case(2, qemu("-drive"),
         "The option is the last word, without its value."),
    Case(2, qemu("-readconfig", "vm.cfg"),
         "Options in a file are not looked at. Write them into the command line, or name the "
         "disks yourself."),
    Case(2, qemus_own_configuration,
         "QEMU reads this file unasked, and it defines drives. Tell QEMU not to."),
    Case(2, qemu("-drive", "file=disk.raw,format=raw,format=qcow2"),
         "QEMU would take one of the two. Leave the other out."),
    Case(2, qemu("-blockdev", "{node-name:d}"),
         "QEMU would not understand it either. Check quotes and braces."),
    Case(2, qemu("-blockdev", "driver=file,node-name=d"),
         "The node lacks its `filename`."),
    Case(2, qemu("-blockdev", "driver=raw,file=missing,node-name=d"),
         "A node must be defined before it is used, as QEMU wants it too. Or its name is "
         "misspelt."),
    Case(2, qemu("-blockdev", "driver=raw,node-name=d"),
         "A format needs a file beneath it: `file=NODE` or `file.driver=…`."),
    Case(2, qemu("-drive", "file=nbd://storage/web1,format=raw"),
         "There is no file on this host to lock. If another lease protects it, name that, and "
         "say `--no-discover`; or use `etcd`, which leases network disks."),
    Case(2, qemu("-blockdev", "driver=nbd,node-name=d"),
         "QEMU takes it, and nothing tells which disk it is: write `server.host=…`."),
    Case(2, qemu("-blockdev", "driver=rbd,node-name=d,pool=web"),
         "QEMU refuses it, too: write the option."),
    Case(2, qemu("-blockdev", "driver=sheepdog,node-name=d"),
         "Write its file name: `sheepdog://host/disk`."),
    Case(2, qemu("-blockdev", "driver=vvfat,dir=/srv,node-name=d"),
         "QEMU writes into a directory; only files and block devices can be leased.",
         "supervisor.discovery.blockdev"),
    Case(2, qemu("-blockdev", "driver=quantum,node-name=d"),
         "A block driver of a newer QEMU, or a misspelt one.", "supervisor.discovery.blockdev"),
    Case(2, qemu("-blockdev",
         "driver=raw,file.driver=file,file.filename=disk.raw,extra.driver=file,extra.filename=x,node-name=d"),
         "A driver of a newer QEMU, or an option of another driver."),
    Case(2, qemu("-blockdev",
         "driver=qcow2,node-name=d,file.driver=qcow2,file.file.driver=file,file.file.filename=disk.raw"),
         "One format inside another: where the inner image's header is cannot be told."),
    Case(2, qemu("-device", "vhost-user-blk-pci,chardev=c0"),
         "Another process writes to this disk and goes on when QEMU is dead. Put that process "
         "under `lock-supervisor run`, and name the disk.", "supervisor.discovery.disks"),
    Case(2, qemu("-blockdev", "driver=virtio-blk-vhost-user,path=/run/backend,node-name=d"),
         "The same, as a block driver.", "supervisor.discovery.blockdev"),
    Case(2, qemu("-global", "virtio-blk-device.drive=d"),
         "A disk is changed from afar. Write the setting where the device is defined."),
    Case(2, qemu("-xen-domid", "7"),
         "Xen keeps names of disks in its own store."),
    Case(2, qemu("-set", "drive.d.file=disk.raw"),
         "The same as `-global`: write it into the `-drive` itself."),
    Case(2, qemu("-hda", "/dev/fdset/9"),
         "The descriptors of the set are missing, or are different files."),
    Case(2, qemu("-hda", "/dev/fd/987"),
         "The launcher did not pass the descriptor on."),
    Case(2, a_pipe_as_descriptor,
         "A pipe, a socket, or a file that was deleted or replaced: nothing that has a name to "
         "lease."),
    Case(2, a_circle_of_images,
         "An image is its own backing file, by some detour. `qemu-img info` shows each step."),
    Case(2, a_damaged_header,
         "The image is damaged, or it is not what its name says. `qemu-img check` tells more."),
    Case(2, qemu("-hda", "/proc/self/mem"),
         "A read error of the disk or the filesystem: look at `dmesg`."),
    Case(2, an_image_that_cannot_be_opened,
         "The same when the image is opened."),
    Case(2, no_lease_for_a_writable_disk,
         "The configuration demands a lease for every disk that QEMU writes to."),
    Case(2, no_lease_for_a_program,
         "The configuration demands leases, and COMMAND's disks cannot be found."),
    Case(111, doctor_without_an_answer,
         "What `doctor` looks for disks in does not answer: an image or a server hangs. It goes on "
         "with the other checks."),
)  # fmt: skip
