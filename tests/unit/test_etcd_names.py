"""Is a disk called alike by every host that may call it so, and by no other name?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lockplugins.contract import Resource, ResourceError
from lockplugins.etcd import names

if TYPE_CHECKING:
    from pathlib import Path

HOST = os.uname().nodename


def test_the_name_of_a_file_is_this_hosts_alone(tmp_path: Path) -> None:
    image, link = tmp_path / "image", tmp_path / "link"
    image.touch()
    link.symlink_to(image)
    own = names.of(Resource(str(link)))
    assert own == f"{os.uname().nodename}:{image}"
    assert not names.spans_hosts(own)
    given = names.of(Resource("/nowhere", identity="san-17"))
    assert given == "id:san-17"
    assert names.spans_hosts(given)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("rbd:pool/image:id=admin:conf=/etc/x", "rbd:pool/image"),
        ("rbd:pool/image", "rbd:pool/image"),
        (r"rbd:pool/im\:age:id=admin", r"rbd:pool/im\:age"),
        ("nbd://Host:10809/export", "nbd://host:10809/export"),
        ("nbd://host/export", "nbd://host:10809/export"),
        ("nbds+tcp://host//e%78port?tls=on", "nbd://host:10809/export"),
        ("nbd:host:10809:exportname=export", "nbd://host:10809/export"),
        ("nbd:[fe80::1]:10809", "nbd://fe80::1:10809/"),
        ("iser://Portal/iqn.2001-04.com:x/1", "iscsi://portal:3260/iqn.2001-04.com:x/1"),
        (
            "iscsi://user%secret@Portal/iqn.2001-04.com%3Ax/1",
            "iscsi://portal:3260/iqn.2001-04.com:x/1",
        ),
        ("gluster+rdma://host/volume/a.img", "gluster://host:24007/volume/a.img"),
        ("sheepdog://host/disk", "sheepdog://host:7000/disk"),
        ("nbd://localhost/a", f"{HOST}:nbd:10809/a"),
        ("nbd://127.0.0.1:10809/a", f"{HOST}:nbd:10809/a"),
        ("nbd:[::1]:10809:exportname=a", f"{HOST}:nbd:10809/a"),
        ("nbd+unix:///a?socket=/run/s", f"{HOST}:nbd+unix:/run/s/a"),
        ("nbd:unix:/run/s:exportname=a", f"{HOST}:nbd+unix:/run/s/a"),
    ],
)
def test_a_network_disk_has_the_name_that_all_hosts_write(uri: str, name: str) -> None:
    assert names.of(Resource(uri)) == name


def test_what_is_no_disk_needs_an_identity(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="neither a file nor a block device"):
        names.of(Resource(str(tmp_path)))
    with pytest.raises(ResourceError, match="Port could not be cast"):
        names.of(Resource("nbd://host:port/export"))
    for unknown in ("disk", "weird://host/a", "nbd:host"):
        with pytest.raises(ResourceError, match=r"no URI (that is|with a).*; give its identity"):
            names.of(Resource(unknown))
    with pytest.raises(ResourceError, match="ENOENT"):
        names.of(Resource(str(tmp_path / "gone")))


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"sda/dm/uuid": "LVM-abc\n", "sda/wwid": "naa.5000"}, "dm:LVM-abc"),
        ({"sda/wwid": "naa.5000\n"}, "wwid:naa.5000"),
        ({"sda/device/wwid": "t10.ATA  disk \n"}, "wwid:t10.ATA disk"),
        ({"sda/size": "8"}, ""),
    ],
)
def test_a_device_is_named_by_what_every_host_sees_of_it(
    tmp_path: Path, attributes: dict[str, str], name: str
) -> None:
    for path, text in attributes.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert names._of_device(str(tmp_path / "sda")) == name
    if name.startswith("wwid:"):
        (tmp_path / "sda" / "sda3").mkdir()
        (tmp_path / "sda" / "sda3" / "partition").write_text("3\n")
        assert names._of_device(str(tmp_path / "sda" / "sda3")) == f"{name}:part3"
