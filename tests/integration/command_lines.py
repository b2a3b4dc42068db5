"""Which command lines show how QEMU names disks? QEMU runs each in a directory of IMAGES."""

from __future__ import annotations

IMAGES = """
create -f raw raw.img 1M
create -f raw other.img 1M
create -f raw cd.iso 1M
create -f qcow2 base.qcow2 1M
create -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2
create -f qcow2 -o compat=0.10 -b mid.qcow2 -F qcow2 top.qcow2
create -f qcow2 -b ../top.qcow2 -F qcow2 sub/relative.qcow2
create -f qcow2 -b raw.img -F raw onraw.qcow2
create -f qcow2 -b base.qcow2 -F qcow2 unnamed.qcow2
create -f qcow2 -o data_file=data.img,data_file_raw=on external.qcow2 1M
create -f qcow2 -b external.qcow2 -F qcow2 onexternal.qcow2
create -f qcow2 -b 'json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}'
  -F qcow2 onjson.qcow2
create -f qcow2 -b file:base.qcow2 -F qcow2 onfile.qcow2
create -f qcow -b raw.img -F raw old.qcow
create -f qed -b raw.img -F raw onraw.qed
create -f qed -b base.qcow2 -F qcow2 onqcow2.qed
create -f vmdk base.vmdk 1M
create -f vmdk -b base.vmdk -F vmdk top.vmdk
create -f vmdk -o subformat=monolithicFlat flat.vmdk 1M
create -f vmdk -o subformat=twoGbMaxExtentSparse split.vmdk 3G
create -f vdi a.vdi 1M
create -f vpc a.vpc 1M
create -f vhdx a.vhdx 8M
create -f parallels a.hds 1M
create -f luks --object secret,id=s,data=key -o key-secret=s,iter-time=10 a.luks 1M
create -f qcow2 --object secret,id=s,data=key -o encrypt.format=luks,encrypt.key-secret=s,\
encrypt.iter-time=10 secret.qcow2 1M
create -f qcow2 -b ./sub/../mid.qcow2 -F qcow2 dotted.qcow2
create -f qcow2 -o data_file=both.img -b base.qcow2 -F qcow2 both.qcow2
"""

# What QEMU opens for writing is exclusive, and nothing else.
SAME = r"""
-hda raw.img -hdb base.qcow2 -cdrom cd.iso
top.qcow2
-snapshot -hda top.qcow2 -drive if=virtio,file=raw.img,format=raw
-snapshot -drive if=virtio,file=raw.img,format=raw,snapshot=off
-drive if=virtio,file=sub/relative.qcow2
-drive if=virtio,file=onraw.qcow2,format=qcow2
-drive if=virtio,file=unnamed.qcow2
-drive if=virtio,file=external.qcow2 -drive if=virtio,file=other.img,format=raw,readonly=on
-drive if=virtio,file=onexternal.qcow2
-drive if=virtio,file=onjson.qcow2 -hda raw.img
-drive if=virtio,file=file:onfile.qcow2
-drive if=virtio,file=old.qcow
-drive if=virtio,file=onraw.qed
-drive if=virtio,file=onqcow2.qed
-drive if=virtio,file=top.vmdk -drive if=virtio,file=flat.vmdk -drive if=virtio,file=split.vmdk
-drive if=virtio,file=flat.vmdk,readonly=on -drive if=virtio,file=base.vmdk,format=vmdk
-drive if=virtio,file=a.vdi -drive if=virtio,file=a.vpc,format=vpc -drive if=virtio,file=a.vhdx
-drive if=virtio,file=a.hds
-pflash raw.img -drive if=pflash,unit=1,file=other.img,format=raw,readonly=on
-drive if=none,file=top.qcow2,format=raw
-drive if=none,file=top.qcow2,backing=
-drive if=none,file=top.qcow2,backing.driver=raw
-drive if=none,file=unnamed.qcow2,backing.file.filename=mid.qcow2
-drive if=none,file=top.qcow2,backing.read-only=off
-drive if=none,file=external.qcow2,data-file.driver=file,data-file.filename=other.img
-drive if=none,id=e,media=cdrom -drive if=none,id=f -hda raw.img
-drive if=none,driver=copy-on-read,file=top.qcow2
-drive if=none,driver=raw,file.driver=qcow2,file.file.filename=top.qcow2
-drive if=none,driver=qcow2,file.driver=raw,file.offset=0,file.file.filename=mid.qcow2
-drive if=none,driver=quorum,vote-threshold=1,children.0.file.filename=mid.qcow2,\
children.1.file.filename=other.img
-drive if=none,driver=blkverify,raw.filename=raw.img,test.file.filename=top.qcow2
-drive if=none,driver=blkdebug,image.filename=top.qcow2
-drive 'if=none,file=json:{"driver":"qcow2",,"file.filename":"mid.qcow2"}'
-hda 'json:{"driver":"raw","read-only":true,"file.filename":"raw.img"}' -cdrom file:cd.iso
-blockdev file,node-name=f,filename=top.qcow2 -blockdev qcow2,node-name=q,file=f
  -device virtio-blk-pci,drive=q
-blockdev "{'driver':'qcow2','node-name':'q','file':{'driver':'file','filename':'top.qcow2'}}"
-blockdev qcow2,node-name=q,file.driver=file,file.filename=top.qcow2,backing=
-blockdev '{"driver":"qcow2","node-name":"q","backing":null,"file":{"driver":"file",\
"filename":"external.qcow2"}}'
-blockdev file,node-name=d,filename=other.img
  -blockdev qcow2,node-name=q,file.driver=file,file.filename=external.qcow2,data-file=d
-blockdev qcow2,node-name=b,file.driver=file,file.filename=base.qcow2
  -blockdev qcow2,node-name=t,file.driver=file,file.filename=mid.qcow2,backing=b
-blockdev vmdk,node-name=v,file.driver=file,file.filename=split.vmdk,read-only=on
-object throttle-group,id=g -blockdev throttle,node-name=t,throttle-group=g,file.driver=qcow2,\
file.file.driver=file,file.file.filename=top.qcow2
-blockdev file,node-name=a,filename=raw.img -blockdev file,node-name=b,filename=other.img
  -blockdev '{"driver":"quorum","node-name":"q","vote-threshold":1,"children":["a","b"]}'
-blockdev raw,node-name=r,file.driver=file,file.filename=raw.img,size=65536
  -snapshot -hda top.qcow2
-device virtio-scsi-pci -drive if=none,id=d,file=mid.qcow2 -device scsi-hd,drive=d
-device nvme,serial=1,drive=d -drive if=none,id=d,file=raw.img,format=raw
-fda raw.img -fdb other.img
--drive if=none,file=raw.img,format=raw --hda other.img
-hda raw.img -hdb other.img -hdc base.qcow2 -hdd cd.iso
-drive if=floppy,file=raw.img,format=raw -drive if=ide,index=3,media=cdrom,file=cd.iso
-drive if=none,file=dotted.qcow2 -drive if=none,file=sub/../raw.img,format=raw
-drive if=none,file=sub/link.qcow2
-drive if=none,file=both.qcow2
-object secret,id=s,data=key -drive if=none,file=a.luks,key-secret=s
-object secret,id=s,data=key -blockdev luks,node-name=l,key-secret=s,file.driver=file,\
file.filename=a.luks
-object secret,id=s,data=key -drive if=none,file=secret.qcow2,encrypt.format=luks,\
encrypt.key-secret=s
-object secret,id=s,data=key -blockdev '{"driver":"qcow2","node-name":"q","encrypt":\
{"format":"luks","key-secret":"s"},"file":{"driver":"file","filename":"secret.qcow2"}}'
-drive if=pflash,unit=0,file=raw.img,format=raw,readonly=on
  -drive if=pflash,unit=1,file=other.img,format=raw
-drive if=pflash,format=raw,readonly=on,file=raw.img -drive if=pflash,format=raw,file=other.img
-blockdev raw,node-name=p0,read-only=on,file.driver=file,file.filename=raw.img
  -blockdev raw,node-name=p1,file.driver=file,file.filename=other.img
  -machine pflash0=p0,pflash1=p1
-drive if=none,id=p0,format=raw,file=raw.img,readonly=on -machine pflash0=p0
-device driver=virtio-blk-pci,drive=d -drive if=none,id=d,file=top.qcow2
-device virtio-blk-pci,drive=n -drive if=none,id=d,node-name=n,file=raw.img,format=raw
-blockdev '{"driver":"raw","node-name":"d","file":{"driver":"file","filename":"raw.img"}}'
  -device '{"driver":"virtio-blk-pci","drive":"d","share-rw":false}'
-blockdev qcow2,node-name=f,file.driver=file,file.filename=base.qcow2
  -device '{"driver":"virtio-blk-pci","drive":"f","share-rw":true}'
-device virtio-scsi-pci -blockdev file,node-name=f,filename=raw.img,read-only=on
  -device scsi-hd,drive=f
-device virtio-scsi-pci -drive if=none,id=d,file=raw.img,format=raw -device scsi-hd,drive=d
  -drive if=none,id=c,file=cd.iso,format=raw,readonly=on -device scsi-cd,drive=c
-device usb-ehci -drive if=none,id=d,file=raw.img,format=raw -device usb-storage,drive=d
-device usb-ehci -device usb-bot,id=u -drive if=none,id=d,file=raw.img,format=raw
  -device scsi-hd,bus=u.0,drive=d
-device pvscsi -drive if=none,id=d,file=raw.img,format=raw -device scsi-hd,drive=d
-device nvme,id=n,serial=1 -drive if=none,id=d,file=raw.img,format=raw -device nvme-ns,drive=d,bus=n
-drive if=none,id=d,file=raw.img,format=raw -device sdhci-pci -device sd-card,drive=d
-device virtio-blk-pci,drive=d -drive if=none,id=d,file=base.qcow2,snapshot=on
-drive if=none,file=raw.img,format=raw,snapshot=on,readonly=on -snapshot -cdrom cd.iso
-snapshot -blockdev file,node-name=f,filename=raw.img
-drive if=none,copy-on-read=on,file=top.qcow2
-drive if=none,copy-on-read=on,readonly=on,file=top.qcow2
-drive if=none,bps=1000000,iops=10,file=raw.img,format=raw
-drive if=none,file=base.qcow2,format=qcow2,lazy-refcounts=on,discard=unmap,detect-zeroes=unmap
-drive if=none,format=raw,size=65536,offset=0,file=raw.img
-drive if=none,file.file.filename=raw.img,file.driver=raw,driver=raw
-drive if=none,file.driver=blkdebug,file.image.filename=raw.img,format=raw
-drive if=none,driver=qcow2,file.driver=file,file.filename=top.qcow2,file.locking=off
-drive if=none,file=top.qcow2,readonly=on,backing.read-only=off
-drive if=none,file=top.qcow2,backing.backing.backing=
-drive if=none,file=onraw.qcow2,backing.driver=raw,backing.file.driver=file,\
backing.file.filename=other.img
-drive 'if=none,file=json:{"file":{"driver":"file",,"filename":"top.qcow2"}}'
-drive "if=none,file=json:{'driver':'raw',,'file':{'driver':'file',,'filename':'raw.img'}}"
-drive 'if=none,file=json:{"driver":"qcow2",,"file":{"driver":"file",,"filename":"top.qcow2"},,\
"backing":null}'
-drive if=none,driver=quorum,vote-threshold=1,children.0.driver=raw,\
children.0.file.filename=raw.img,children.1.driver=qcow2,children.1.file.filename=base.qcow2
-drive if=none,driver=throttle,throttle-group=g,file.driver=qcow2,file.file.filename=base.qcow2
  -object throttle-group,id=g
-blockdev file,node-name=f,filename=raw.img,auto-read-only=on,locking=off,aio=threads
-blockdev raw,node-name=r,offset=4096,size=65536,file.driver=file,file.filename=raw.img
-blockdev file,node-name=f,filename=raw.img -blockdev raw,node-name=a,file=f,size=65536
  -blockdev raw,node-name=b,file=f,offset=65536
-blockdev file,node-name=f,filename=raw.img,read-only=on
  -blockdev qcow2,node-name=q,file.driver=file,file.filename=onraw.qcow2,backing=f
-blockdev '{"driver":"qcow2","node-name":"q","file":{"driver":"file","filename":"external.qcow2"},\
"data-file":{"driver":"file","filename":"other.img"}}'
-blockdev '{"driver":"qcow2","node-name":"q","file":{"driver":"raw","file":{"driver":"file",\
"filename":"mid.qcow2"}}}'
-blockdev '{"driver":"qcow2","node-name":"q","file":{"driver":"blkdebug","image":\
{"driver":"file","filename":"top.qcow2"}}}'
-blockdev '{"driver":"file","node-name":"b-s","filename":"base.qcow2","read-only":true}'
  -blockdev '{"driver":"qcow2","node-name":"b","file":"b-s","read-only":true,"backing":null}'
  -blockdev '{"driver":"file","node-name":"m-s","filename":"mid.qcow2","read-only":true}'
  -blockdev '{"driver":"qcow2","node-name":"m","file":"m-s","read-only":true,"backing":"b"}'
  -blockdev '{"driver":"file","node-name":"t-s","filename":"top.qcow2"}'
  -blockdev '{"driver":"qcow2","node-name":"t","file":"t-s","backing":"m"}'
  -device virtio-blk-pci,drive=t
-blockdev copy-on-read,node-name=c,bottom=b,file.driver=qcow2,file.file.driver=file,\
file.file.filename=mid.qcow2,file.backing.driver=qcow2,file.backing.node-name=b,\
file.backing.file.driver=file,file.backing.file.filename=base.qcow2
-object throttle-group,id=g -blockdev file,node-name=f,filename=raw.img
  -blockdev throttle,node-name=t,throttle-group=g,file=f
  -blockdev copy-on-read,node-name=c,file=t -device virtio-blk-pci,drive=c
-blockdev preallocate,node-name=p,file.driver=file,file.filename=raw.img
-blockdev compress,node-name=p,file.driver=qcow2,file.file.driver=file,file.file.filename=base.qcow2
-blockdev blklogwrites,node-name=p,file.driver=file,file.filename=raw.img,log.driver=file,\
log.filename=other.img
-blockdev blkreplay,node-name=p,image.driver=file,image.filename=raw.img
-blockdev blkverify,node-name=v,raw.driver=file,raw.filename=raw.img,test.driver=qcow2,\
test.file.driver=file,test.file.filename=base.qcow2
-blockdev copy-before-write,node-name=p,file.driver=file,file.filename=raw.img,\
target.driver=file,target.filename=other.img -blockdev snapshot-access,node-name=s,file=p
-blockdev quorum,node-name=q,vote-threshold=2,children.0.driver=file,children.0.filename=raw.img,\
children.1.driver=file,children.1.filename=other.img,rewrite-corrupted=on
-incoming defer -blockdev file,node-name=f,filename=raw.img -drive if=none,file=top.qcow2
-fw_cfg name=opt/x,file=other.img -acpitable sig=TEST,file=small -smbios file=small -hda raw.img
-bios other.img -option-rom small -device loader,file=small,addr=0x100000 -hda raw.img
-object secret,id=s,file=small,format=raw -hda raw.img
"""

# What QEMU has open and is no disk: host directories, ordinary memory, randomness.
BESIDE = r"""
-hda raw.img -fsdev local,id=f,path=sub,security_model=none
  -device virtio-9p-pci,fsdev=f,mount_tag=t
-hda raw.img -virtfs local,path=sub,mount_tag=t,security_model=none
-hda raw.img -object rng-random,id=r,filename=small
-hda raw.img -m 64M,slots=2,maxmem=1G -object memory-backend-file,id=m,size=1M,share=on,\
mem-path=other.img -device ivshmem-plain,memdev=m
-hda raw.img -chardev file,id=c,path=log -serial file:log -D log
"""

# What QEMU takes and we cannot follow: each is refused by the argument's name.
REFUSED = r"""
-drive if=none,file=blkdebug::raw.img
-drive if=none,file=blkverify:raw.img:base.qcow2
-drive if=none,format=raw,file=fat:sub
-drive if=none,format=raw,file=fat:rw:sub
-blockdev vvfat,node-name=v,dir=sub,read-only=on
-drive if=none,id=d,file=raw.img,format=raw -set drive.d.readonly=on
-readconfig config
"""

# QEMU opens these for writing, but not to write to.
UNWRITTEN = r"""
-drive if=none,id=d,file=raw.img,format=raw -device ide-cd,drive=d
-device virtio-scsi-pci -drive if=none,id=d,file=raw.img,format=raw -device scsi-cd,drive=d
-blockdev file,node-name=s,filename=cd.iso -blockdev raw,node-name=f,read-only=on,file=s
  -device ide-cd,drive=f
-blockdev '{"driver":"file","node-name":"s","filename":"base.qcow2","auto-read-only":true}'
  -blockdev '{"driver":"qcow2","node-name":"f","file":"s","read-only":true}'
  -blockdev qcow2,node-name=t,file.driver=file,file.filename=mid.qcow2,backing=f
-blockdev raw,node-name=b,file.driver=file,file.filename=raw.img
  -blockdev qcow2,node-name=t,file.driver=file,file.filename=onraw.qcow2,backing=b
"""


def cases(table: str) -> list[str]:
    r"""Return a table's command lines; one goes on after `\\`, or where a line is indented."""
    return table.strip("\n").replace("\\\n", "").replace("\n  ", " ").splitlines()
