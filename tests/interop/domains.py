"""Which domains show how libvirt names disks? Devices, each followed by what must be found.

`D/` stands for the images' directory, LOOP for a block device, SECRET for the images' key.
"""

from __future__ import annotations

IMAGES = """
create -f raw raw.img 4M
create -f raw other.img 4M
create -f raw cd.iso 4M
create -f raw floppy.img 1440K
create -f raw code.fd 4M
create -f raw vars.fd 4M
create -f raw memory 128M
create -f raw private 128M
create -f raw 'a b,c,,d=é"&.img' 4M
create -f qcow2 base.qcow2 4M
create -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2
create -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2
create -f qcow2 -b base.qcow2 -F qcow2 second.qcow2
create -f qcow2 -b raw.img -F raw onraw.qcow2
create -f qcow2 -o data_file=DIRECTORY/data.img,data_file_raw=on external.qcow2 4M
create -f qcow2 --object secret,id=s,file=passphrase -o encrypt.format=luks,encrypt.key-secret=s,\
encrypt.iter-time=10 secret.qcow2 4M
create -f luks --object secret,id=s,file=passphrase -o key-secret=s,iter-time=10 secret.luks 4M
create -f vmdk -o subformat=monolithicFlat flat.vmdk 4M
create -f vdi a.vdi 4M
"""

AGREED = """
<disk><driver type='raw'/><source file='D/raw.img'/><target dev='vda'/></disk>
    exclusive raw.img
<disk device='disk'><source file='D/raw.img'/><target dev='sda' bus='scsi'/></disk>\
<disk device='cdrom'><source file='D/cd.iso'/><target dev='sdb' bus='scsi'/></disk>
    exclusive raw.img; shared cd.iso
<disk><source file='D/raw.img'/><target dev='sda' bus='sata'/></disk>\
<disk device='cdrom'><target dev='sdb' bus='sata'/></disk>
    exclusive raw.img
<disk><source file='D/raw.img'/><target dev='hda' bus='ide'/></disk><disk device='floppy'>\
<source file='D/floppy.img'/><target dev='fda' bus='fdc'/></disk>
    exclusive raw.img floppy.img
<disk><source file='D/raw.img'/><target dev='sda' bus='usb'/></disk>
    exclusive raw.img
<disk><source file='D/raw.img'/><target dev='vda'/><shareable/></disk><disk>\
<source file='D/other.img'/><target dev='vdb'/><readonly/></disk>
    shared raw.img other.img
<disk><driver type='qcow2'/><source file='D/top.qcow2'/><target dev='vda'/></disk>
    exclusive top.qcow2; shared mid.qcow2 base.qcow2
<disk><driver type='qcow2'/><source file='D/top.qcow2'/><target dev='vda'/><readonly/></disk>
    shared top.qcow2 mid.qcow2 base.qcow2
<disk><driver type='qcow2'/><source file='D/top.qcow2'/><target dev='vda'/>\
<backingStore type='file'><format type='qcow2'/><source file='D/second.qcow2'/>\
<backingStore type='file'><format type='qcow2'/><source file='D/base.qcow2'/><backingStore/>\
</backingStore></backingStore></disk>
    exclusive top.qcow2; shared second.qcow2 base.qcow2
<disk><driver type='qcow2'/><source file='D/mid.qcow2'/><target dev='vda'/><backingStore/></disk>
    exclusive mid.qcow2
<disk><driver type='qcow2'/><source file='D/mid.qcow2'/><target dev='vda'/></disk><disk>\
<driver type='qcow2'/><source file='D/second.qcow2'/><target dev='vdb'/></disk>
    exclusive mid.qcow2 second.qcow2; shared base.qcow2
<disk><driver type='qcow2' copy_on_read='on'/><source file='D/onraw.qcow2'/><target dev='vda'/>\
<iotune><total_iops_sec>1000</total_iops_sec></iotune></disk>
    exclusive onraw.qcow2; shared raw.img
<disk><driver type='qcow2'/><source file='D/external.qcow2'/><target dev='vda'/></disk>
    exclusive external.qcow2 data.img
<disk><driver type='qcow2'/><source file='D/secret.qcow2'>SECRET</source><target dev='vda'/></disk>
    exclusive secret.qcow2
<disk><driver type='raw'/><source file='D/secret.luks'>SECRET</source><target dev='vda'/></disk>
    exclusive secret.luks
<disk><driver type='vmdk'/><source file='D/flat.vmdk'/><target dev='vda'/></disk><disk>\
<driver type='vdi'/><source file='D/a.vdi'/><target dev='vdb'/></disk>
    exclusive flat.vmdk flat-flat.vmdk a.vdi
<disk><source file='D/raw.img'><slices><slice type='storage' offset='65536' size='65536'/></slices>\
</source><target dev='vda'/></disk>
    exclusive raw.img
<disk><source file='D/a b,c,,d=é&quot;&amp;.img'/><target dev='vda'/></disk>
    exclusive 'a b,c,,d=é"&.img'
<disk type='block'><driver type='raw'/><source dev='LOOP'/><target dev='vda'/></disk>
    exclusive LOOP
"""


ON_THE_NETWORK = """
<disk type='network'><source protocol='rbd' name='p/a'><host name='far'/></source>\
<target dev='vda'/></disk>
    exclusive rbd:p/a
<disk type='network'><source protocol='nbd' name='a'><host name='far' port='10809'/></source>\
<target dev='vda'/></disk>
    exclusive nbd://far:10809/a
<disk type='network'><source protocol='iscsi' name='iqn.2001-04.com:x/1'>\
<host name='far' port='3260'/></source><target dev='vda'/><readonly/></disk>
    shared iscsi://far:3260/iqn.2001-04.com%3Ax/1
"""

REFUSED = """
<disk type='dir'><driver type='fat'/><source dir='D'/><target dev='vda'/><readonly/></disk>
    a directory cannot be leased
<disk type='nvme'><source type='pci' namespace='1' managed='no'><address domain='0' bus='1' \
slot='0' function='0'/></source><target dev='vda'/></disk>
    QEMU drives a PCI device by itself
<disk type='vhostuser' snapshot='no'><driver type='raw'/><source type='unix' path='D/s'/>\
<target dev='vda' bus='virtio'/></disk>
    writer is outside the guest
<hostdev mode='subsystem' type='pci' managed='no'><driver name='vfio'/><source>\
<address domain='0' bus='1' slot='0' function='0'/></source></hostdev>
    writer is outside the guest
"""


def cases(table: str) -> list[tuple[str, str]]:
    """Return a table's devices, each of which end with an indented line of their disks."""
    lines = table.strip("\n").replace("\\\n", "").splitlines()
    return [(lines[at], lines[at + 1]) for at in range(0, len(lines), 2)]
