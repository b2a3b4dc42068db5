"""How does docs/lifecycle.md look? Prints it: `python -m tests.support.lifecycle`.

Each sequence of libvirt's lock manager README is run by a test, which has the
README's lines as comments with >. The page has those on the left, and on the
right the calls that the test makes for them. A test compares the page.
"""

from __future__ import annotations

import ast
import inspect
import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from supervisor.manager import LockManager
from tests.support.sources import Source, read

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "docs/lifecycle.md"
COMMAND = f".venv/bin/python -m tests.support.lifecycle >{PATH}"
_HEAD = f"""<!-- Made of the tests that run it: {COMMAND} -->
# Each sequence of libvirt's lock manager README, beside ours

On the left a line of the README, on the right what does it here. Every right column is run by the
test that is named with it, on a QEMU guest that writes to its disks without pause. `qemu`, `here`
and `there` are QEMU's own monitors. Where the README tests what a call returns, ours returns
True or a value, or raises a `LockError` ([api.md](api.md)). A daemon of 200 lines that does all of
this, to copy from: [example-daemon.py](example-daemon.py).
"""
_OURS = {
    name for name, _ in inspect.getmembers(LockManager, callable) if not name.startswith("_")
} | {"LockManager", "load", "unload"}
_QEMUS = {"quit", "plug", "unplug", "migrate", "cont", "Popen"}
# What is the test's own in a statement, and what a daemon would have in its place.
_PLAIN = {
    r", runtime_dir=[\w.]+": "",
    r"\b(hosts|daemon|self(\.target)?)\.(?=[a-z])": "",
    r"^\((\w+) := (.*)\)$": r"\1 = \2",
    r"DEADLINE_S( \* 2)?": "30",
}
_SEED = re.compile(r"\s*# > ?(.*)")


class Sequence(NamedTuple):
    """One section: its title, what is said about it, and the function of a test that runs it."""

    title: str
    words: str
    test: str
    function: str


SEQUENCES = (
    Sequence("The daemon starts and ends", "`sync-manager` is an old name of the plugin sanlock.",
             "test_seed_guest", "test_at_libvirtd_startup_and_shutdown"),
    Sequence("A guest starts and ends",
             "When `acquire_object` returns, every lease is held and QEMU waits, not executed yet.",
             "test_seed_guest", "test_at_guest_startup_and_guest_shutdown"),
    Sequence("A guest does not end",
             "`shutdown` ends nothing. SIGKILL of the supervisor takes the guest with it, and no "
             "lease is free before the guest is dead.",
             "test_seed_guest",
             "test_at_guest_shutdown_a_guest_that_stays_is_killed_by_its_supervisor"),
    Sequence("The daemon restarts, its guests running",
             "The guest is found by its uuid alone; whatever ended the daemon has not touched it.",
             "test_seed_guest", "test_at_libvirtd_restart_with_running_guests"),
    Sequence("A disk is plugged in and out",
             "Locked before QEMU opens it; refused to be unlocked while QEMU still has it open.",
             "test_seed_hotplug", "test_with_disk_hotplug_and_disk_unhotplug"),
    Sequence("A migration's destination is started",
             "Here the prefix form: the supervisor in front of QEMU's command line.",
             "test_seed_migration", "receive"),
    Sequence("A migration succeeds",
             "The target completes first, as in the README; the other order does too "
             "([migration.md](migration.md)).",
             "test_seed_migration", "test_during_migration_on_success"),
    Sequence("A migration fails", "The target gives up, then the source owns its disks again.",
             "test_seed_migration", "test_during_migration_on_failure"),
)  # fmt: skip


def page() -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, *map(_section, SEQUENCES)])


def _section(sequence: Sequence) -> str:
    path = f"tests/integration/{sequence.test}.py"
    rows = [f"| {_cell(seeds)} | {_cell(ours)} |" for seeds, ours in _steps(sequence, path)]
    head = [f"## {sequence.title}\n", f"{sequence.words} (`{sequence.function}`)\n"]
    return "\n".join([*head, "| the README | here |", "|---|---|", *rows, ""])


def _steps(sequence: Sequence, path: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the seed's lines, and the calls that follow them up to its next lines."""
    source = Source(path, read(path))
    (function,) = (
        node
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef) and node.name == sequence.function
    )
    lines = source.text.split("\n")
    told: dict[int, list[str]] = {}
    for number in range(function.lineno, (function.end_lineno or 0) + 1):
        if (match := _SEED.fullmatch(lines[number - 1])) is not None:
            begin = number - 1 if number - 1 in told else number
            told[number] = [*told.pop(begin, []), match[1]]
    starts = [*told, function.end_lineno or 0]
    for first, next_one in pairwise(starts):
        # Up to an empty line: what comes then is the test's own.
        last = next((n for n in range(first, next_one) if not lines[n - 1]), next_one)
        body = (statement for statement in function.body if first < statement.lineno <= last)
        yield told[first], [call for statement in body for call in _calls(statement)]


def _calls(statement: ast.stmt) -> list[str]:
    """Return a statement as a daemon would write it, if it is about leases or QEMU."""
    written: ast.AST = statement
    note = ""
    match statement:
        case ast.Assert(test=said) | ast.If(test=ast.UnaryOp(op=ast.Not(), operand=said)):
            written = said
        case ast.With(items=[ast.withitem(ast.Call(args=[error, *_]))], body=[below]):
            written, note = below, f"  # raises {ast.unparse(error)}"
        case ast.If(body=[below]):
            written = below
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        for node in ast.walk(written)
        if isinstance(node, ast.Call)
    }
    is_command = isinstance(statement, ast.Assign) and isinstance(statement.value, ast.List)
    text = ast.unparse(written)
    for pattern, plain in _PLAIN.items():
        text = re.sub(pattern, plain, text)
    return [text + note] if is_command or called & (_OURS | _QEMUS) else []


def _cell(texts: list[str]) -> str:
    return "<br>".join(f"`{text}`".replace("|", "\\|") for text in texts)


if __name__ == "__main__":
    print(page(), end="")
