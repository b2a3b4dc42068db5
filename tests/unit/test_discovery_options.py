"""Is QEMU's command line cut where QEMU cuts it, and are values read as QEMU reads them?"""

from __future__ import annotations

import pytest

from supervisor.discovery.errors import DiscoveryError
from supervisor.discovery.options import ALONE, IMAGE, WITH_VALUE, Option, below, cut, pairs, values


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-S -m 512 -hda a", [("S", None), ("m", "512"), ("hda", "a")]),
        ("--m 512 --nographic", [("m", "512"), ("nographic", None)]),
        ("a.img -S", [(IMAGE, "a.img"), ("S", None)]),
        ("-append -snapshot -S", [("append", "-snapshot"), ("S", None)]),
        ("-name -help", [("name", "-help")]),
        ("-m", [("m", None)]),
    ],
)
def test_options_are_cut_as_qemu_cuts_them(line: str, expected: list[tuple[str, str]]) -> None:
    assert [(o.name, o.value) for o in cut(["qemu", *line.split()]) if o.known] == expected


def test_an_empty_argument_is_an_image_and_a_lone_dash_is_nothing() -> None:
    assert [(o.name, o.value, o.known) for o in cut(["q", "", "-", "--", "-S"])] == [
        (IMAGE, "", True),
        ("", None, False),
        ("", None, False),
        ("S", None, True),
    ]


def test_an_unknown_option_is_marked_and_its_value_guessed() -> None:
    found = cut(["q", "-frob", "x", "-frob", "-S"])
    assert [(o.name, o.value, o.known) for o in found] == [
        ("frob", "x", False),
        ("frob", None, False),
        ("S", None, True),
    ]


def test_no_option_is_in_both_tables() -> None:
    assert WITH_VALUE.isdisjoint(ALONE)
    assert len(WITH_VALUE) > 90
    assert len(ALONE) > 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1,b=2", [("a", "1"), ("b", "2")]),
        ("a=x,,y", [("a", "x,y")]),
        ("a=x,,,b=y", [("a", "x,"), ("b", "y")]),
        ("a=,,,,", [("a", ",,")]),
        ("a=", [("a", "")]),
        ("a=b=c,d", [("a", "b=c"), ("d", "on")]),
        ("readonly,nosnapshot", [("readonly", "on"), ("snapshot", "off")]),
        ("a=1,", [("a", "1")]),
        ("a=x\ny,b=\udcff", [("a", "x\ny"), ("b", "\udcff")]),
        ("=x", [("", "x")]),
        ("", []),
    ],
)
def test_keys_and_values(text: str, expected: list[tuple[str, str]]) -> None:
    assert list(pairs(text)) == expected


def test_a_first_value_may_stand_without_its_key() -> None:
    assert list(pairs("qcow2,node-name=a", "driver")) == [("driver", "qcow2"), ("node-name", "a")]
    assert list(pairs("a,,b,process=c", "guest")) == [("guest", "a,b"), ("process", "c")]
    assert list(pairs("driver=raw", "driver")) == [("driver", "raw")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": {"b": 1, "c": [true, null]}}', {"a.b": 1, "a.c.0": True, "a.c.1": None}),
        ("{'a': 'b\"c', \"d\": \"it's\"}", {"a": 'b"c', "d": "it's"}),
        (r"{'a': 'it\'s', 'b': 'x\"y', 'c': 'x\\'}", {"a": "it's", "b": 'x"y', "c": "x\\"}),
        (r'{"a": "\u00e9\ud83d\ude00\/"}', {"a": "é😀/"}),
        ("{}", {}),
    ],
)
def test_json_becomes_dotted_keys(text: str, expected: dict[str, object]) -> None:
    assert values(Option("blockdev", text)) == expected


@pytest.mark.parametrize(
    "text",
    ["{", '{"a": }', '{"a": "\\u0000"}', '{"a": "\\ud800"}', '{"a": "\udcff"}', '{"a":' * 2000],
)
def test_json_that_qemu_refuses_is_an_error(text: str) -> None:
    with pytest.raises(DiscoveryError, match="-blockdev"):
        values(Option("blockdev", text))


def test_below_takes_a_part_of_the_options() -> None:
    assert below({"file.a": 1, "file.b.c": 2, "filed": 3, "file": 4}, "file") == {"a": 1, "b.c": 2}
