"""Is a sanlock daemon that says something else, or half of it, doubted and not believed?

It is a small real server on a socket of its own, which the code asks in a process of its own.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from lockplugins.sanlock import library, status

if TYPE_CHECKING:
    from pathlib import Path

_ASK = """
from lockplugins.contract import LockError
from lockplugins.sanlock import status
try:
    print(len(status.read().lockspaces))
except LockError as error:
    print(type(error).__name__, error)
"""
_OK = status._HEADER.pack(status._MAGIC, 1, 5, 0, status._HEADER.size, 0, 0, 0)
_SPACE = bytes(library.Lockspace(b"space", 1))
DEADLINE_S = 30


def entry(kind: int, text: bytes, structure: bytes = b"") -> bytes:
    return status._ENTRY.pack(kind, 0, 0, 0, b"name", len(text)) + text + structure


LIES = {
    "nothing": (b"", "its answer ends too early"),
    "half of it": (_OK + entry(status._LOCKSPACE, b"", _SPACE)[:-1], "its answer ends too early"),
    "other fields": (_OK + entry(status._LOCKSPACE, b"id=1", _SPACE), "cannot be understood: KeyE"),
    "no numbers": (
        _OK + entry(status._LOCKSPACE, b"space_id=x", _SPACE), "cannot be understood: ValueError",
    ),
    "no disk": (
        _OK + entry(status._RESOURCE, b"list=held", bytes(status._RESOURCE_BYTES)),
        "cannot be understood: ValueError",
    ),
}  # fmt: skip


def test_a_connection_that_only_watches_is_answered_before_it_keeps_still(tmp_path: Path) -> None:
    """The daemon may read from it as soon as it is there, and serves nobody meanwhile."""
    watch = "from lockplugins.sanlock import status; status.watch(); print('watched')"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "sanlock.sock"))
        listener.listen()
        with subprocess.Popen(
            [sys.executable, "-c", watch], stdout=subprocess.PIPE,
            env={**os.environ, status.RUN_DIR_VARIABLE: str(tmp_path)},
        ) as watching:  # fmt: skip
            listener.settimeout(DEADLINE_S)
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(DEADLINE_S)
                asked = connection.recv(1 << 16)
                assert asked == status._header(status._VERSION)
                connection.sendall(asked)
                said, _ = watching.communicate(timeout=DEADLINE_S)
    assert said == b"watched\n"


@pytest.mark.parametrize("lie", LIES)
def test_what_cannot_be_understood_is_a_doubt(lie: str, tmp_path: Path) -> None:
    said, words = LIES[lie]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "sanlock.sock"))
        listener.listen()
        threading.Thread(target=_answer, args=[listener, said], daemon=True).start()
        asked = subprocess.run(
            [sys.executable, "-c", _ASK], capture_output=True, text=True, check=True,
            env={**os.environ, status.RUN_DIR_VARIABLE: str(tmp_path)}, timeout=DEADLINE_S,
        )  # fmt: skip
    assert asked.stdout.startswith("LeaseUnknownError cannot ask the sanlock daemon: ")
    assert words in asked.stdout


def _answer(listener: socket.socket, said: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(said)
