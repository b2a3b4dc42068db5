"""Is a stream cut into the same messages however it arrives? And what if it is no JSON?"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.qmp.wire import MAX_DEPTH, MAX_MESSAGE_BYTES, Framer, WireError, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
MESSAGES = st.dictionaries(TEXT, VALUES, max_size=4)
SPACE = st.text(" \t\r\n", max_size=3)
# A line that begins with no brace is no message to its end, whatever stands in it.
GARBAGE = st.tuples(
    st.sampled_from('x}]"\\0\x00\x7fé[').map(str.encode), st.binary(max_size=20)
).map(lambda parts: b"".join(parts).replace(b"\n", b"") + b"\n")
# Ends where its braces close, and is refused.
BROKEN = st.sampled_from([b"{x}", b"{]", b'{"a":}', b"{'a': 1}", b'{"a": NaN}', b'{"\xff": 1}'])

PIECES = [b"{", b"}", b"[", b"]", b'"', b"\\", b"\n", b" ", b":", b'"a"', b"1", b'{"a": 1}', b"x"]


def read(stream: bytes, cuts: list[int], limit: int = MAX_MESSAGE_BYTES) -> Iterator[Any]:
    """Yield what a framer makes of `stream`, cut at `cuts`: messages, and WireError for a refusal.

    Ends with a fatal refusal, as a connection does.
    """
    framer = Framer(limit)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        framer.feed(stream[start:end])
        while True:
            try:
                message = framer.next()
            except WireError as error:
                yield WireError
                if error.fatal:
                    return
                continue
            if message is None:
                break
            yield message


@given(st.lists(st.tuples(MESSAGES, SPACE, st.booleans())), st.lists(st.integers(0)))
def test_any_split_of_a_stream_gives_the_same_messages(
    sent: list[tuple[dict[str, object], str, bool]], cuts: list[int]
) -> None:
    stream = b"".join(
        json.dumps(message, ensure_ascii=ascii_only).encode() + space.encode()
        for message, space, ascii_only in sent
    )
    assert list(read(stream, cuts)) == [message for message, _, _ in sent]


@given(MESSAGES)
def test_what_goes_out_comes_in(message: dict[str, object]) -> None:
    wire = encode(message)
    assert wire.isascii()
    assert wire.count(b"\n") == 1
    assert list(read(wire, [])) == [json.loads(json.dumps(message))]


@given(
    st.lists(st.tuples(st.just(True), MESSAGES) | st.tuples(st.just(False), GARBAGE | BROKEN)),
    st.lists(st.integers(0)),
)
def test_messages_between_garbage_are_understood(
    sent: list[tuple[bool, Any]], cuts: list[int]
) -> None:
    stream = b"".join(json.dumps(part).encode() if good else part for good, part in sent)
    expected = [part if good else WireError for good, part in sent]
    assert list(read(stream, cuts)) == expected


@given(st.binary() | st.lists(st.sampled_from(PIECES)).map(b"".join), st.lists(st.integers(0)))
def test_any_bytes_give_the_same_however_they_arrive(stream: bytes, cuts: list[int]) -> None:
    assert list(read(stream, cuts)) == list(read(stream, []))


@pytest.mark.parametrize("cuts", [[], list(range(200))])
def test_a_message_may_be_as_long_as_the_limit_and_no_longer(cuts: list[int]) -> None:
    fits, exceeds = (json.dumps({"a": "x" * length}).encode() for length in (91, 92))
    assert len(fits) == 100
    assert list(read(fits, cuts, limit=100)) == [{"a": "x" * 91}]
    assert list(read(exceeds, cuts, limit=100)) == [WireError]
    assert list(read(b'{"a": "' + b"x" * 200, cuts, limit=100)) == [WireError]
    assert list(read(fits * 3, cuts, limit=100)) == [{"a": "x" * 91}] * 3


@pytest.mark.parametrize("opening", [b'{"a":', b"["])
def test_a_message_may_be_so_deep_and_no_deeper(opening: bytes) -> None:
    def nested(depth: int) -> bytes:
        closing = b"}" if opening[:1] == b"{" else b"]"
        return b'{"x":' + opening * (depth - 1) + b"1" + closing * (depth - 1) + b"}"

    (message,) = read(nested(MAX_DEPTH), [])
    assert encode(message)
    assert list(read(nested(MAX_DEPTH + 1), [])) == [WireError]
    assert list(read(nested(10_000), [])) == [WireError]


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"])
def test_a_number_that_is_not_finite_is_no_message(number: bytes) -> None:
    stream = b'{"a": ' + number + b'}{"b": 1}'
    assert list(read(stream, [])) == [WireError, {"b": 1}]


def test_escaped_quotes_and_braces_in_strings_end_nothing() -> None:
    sent: dict[str, object] = {'}"\\': '{[\\"', "b": '\\\\"}'}
    stream = json.dumps(sent).encode()
    for cut in range(len(stream)):
        assert list(read(stream * 2, [cut, len(stream) + cut])) == [sent, sent]
