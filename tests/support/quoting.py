"""In how many ways may a command line spell one path? Each as QEMU's own quoting wants it.

Written from QEMU's documentation alone, knowing nothing of the code that reads it back.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Names of any bytes that a file can have, rich in what has a meaning to QEMU.
SHREDS = [b",", b",,", b"=", b".", b":", b" ", b"\n", b"'", b'"', b"\\", b"//", b"{", b"}", b"[",
          b"json:{", b"file:", b"nbd:", b"fat:", b",readonly=on", b",shared", b"\xff", b"\xc3\xa9",
          b"/dev/fdset/1", b"%20", b"\\u0041", b"-snapshot", b"\xf0\x9f\x98\x80"]  # fmt: skip
NAMES = st.lists(
    st.one_of(st.sampled_from(SHREDS), st.binary(min_size=1, max_size=4)), max_size=8
).map(lambda parts: b"".join(parts).replace(b"\0", b"0"))


def quoted(text: str) -> str:
    """Return a value of KEY=VALUE."""
    return text.replace(",", ",,")


def double(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def escaped(text: str) -> str:
    return '"' + "".join(f"\\u{word:04x}" for word in _utf16(text)) + '"'


def single(text: str) -> str:
    """Return a JSON string in QEMU's own kind of quotes, in which a double one is plain."""
    kept = {"'": "\\'", '"': '"', "/": "\\/"}
    return "'" + "".join(kept.get(c) or json.dumps(c, ensure_ascii=False)[1:-1] for c in text) + "'"


def _utf16(text: str) -> Iterator[int]:
    encoded = text.encode("utf-16-be")
    return (int.from_bytes(encoded[at : at + 2], "big") for at in range(0, len(encoded), 2))


def _json_file(string: Callable[[str], str]) -> Callable[[str], list[str]]:
    def spelled(path: str) -> list[str]:
        layers = f"{{'driver':'raw','file':{{'driver':'file','filename':{string(path)}}}}}"
        return ["-drive", f"if=none,file=json:{quoted(layers)}"]

    return spelled


def _json_node(string: Callable[[str], str]) -> Callable[[str], list[str]]:
    def spelled(path: str) -> list[str]:
        name = f"node-{string.__name__}"
        layers = '{"driver":"raw","node-name":"%s","file":{"driver":"file","filename":%s}}'
        return ["-blockdev", layers % (name, string(path))]

    return spelled


def _drive(options: str) -> Callable[[str], list[str]]:
    return lambda path: ["-drive", options.format(quoted(path))]


def _blockdev(options: str) -> Callable[[str], list[str]]:
    return lambda path: ["-blockdev", options.format(quoted(path))]


# As bytes are; and as JSON can say it, which is Unicode. Together they make one command line.
PLAIN: tuple[Callable[[str], list[str]], ...] = (
    lambda path: ["-hda", path],
    _drive("if=none,file={},format=raw"),
    _drive("file={},format=raw,if=none,cache=unsafe"),
    _drive("if=none,format=raw,file=file:{}"),
    _drive("if=none,format=raw,file.filename={}"),
    _drive("if=none,driver=raw,file.driver=raw,file.file.filename={}"),
    _blockdev("file,filename={},node-name=one"),
    _blockdev("driver=raw,node-name=two,file.driver=file,file.filename={}"),
)
JSON: tuple[Callable[[str], list[str]], ...] = (
    *map(_json_file, (double, escaped, single)),
    *map(_json_node, (double, escaped, single)),
)
