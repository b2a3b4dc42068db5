"""What do the commands that ask about guests do: child, list, status?

Clients of the control pipe that ask what the arguments say. It must not know
how a guest is found, how its end is proven, or how an answer looks.
"""

from __future__ import annotations

import os
import time

import click

from lockplugins.contract import LeaseState, LockError, shown
from supervisor import client, config, finding, rundir
from supervisor.cli import candidates, render
from supervisor.cli.options import located
from supervisor.spec import END

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.client import Client
    from supervisor.finding import Guest

    Status = dict[str, object]

_AT_ONCE = 200  # guests asked side by side, well below the usual limit of descriptors
_STATUS_ONLY = ("deadline_s", "unleased", "parked")


@click.command("child")
@click.argument("guest", shell_complete=candidates.guests)
@located
def child_command(guest: str, config: str | None, runtime_dir: str | None) -> None:
    """Print the pid of GUEST's process (GetChild).

    GUEST is a uuid, a name, or the first 4 or more characters of a uuid.

    Example: lock-supervisor child web1
    """
    found = find(guest, runtime_dir, config)
    if is_acquiring(found):
        name, reason = f"the child of guest {found.words()}", "its leases are still being acquired"
        raise LockError("tell", name, reason, "it has none before")
    render.put(str(client.get_child(found.path).pid))


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@located
def list_command(config: str | None, runtime_dir: str | None, *, as_json: bool) -> None:
    """Show the guests of this runtime directory.

    Example: lock-supervisor list --json
    """
    found = finding.guests(_base(runtime_dir, config))
    answers = [answer for answer in _ask(found) if answer is not None]
    for answer in answers:
        leases = answer["leases"]
        answer["leases"] = len(leases) if isinstance(leases, list) else 0
        for key in _STATUS_ONLY:
            answer.pop(key, None)  # an older guard does not say them all
    if as_json:
        render.put_json(answers)
    else:
        render.put_list(answers)


@click.command("status")
@click.argument("guest", shell_complete=candidates.guests)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@located
def status_command(
    guest: str, config: str | None, runtime_dir: str | None, *, as_json: bool
) -> None:
    """Show one guest: its leases, and the guarantee in words.

    And its deadline, its containment, what QEMU has open without a lease.

    Example: lock-supervisor status web1
    """
    found = find(guest, runtime_dir, config)
    (answer,) = _ask([found])
    if answer is None:
        raise finding.NoSuchGuestError("ask", f"guest {found.words()}", "it has just ended")
    if as_json:
        render.put_json(answer)
    else:
        render.put_status(answer)


def find(guest: str, runtime_dir: str | None, config_file: str | None) -> Guest:
    """Return the guest that GUEST means, in the runtime directory that the options mean."""
    return finding.resolve(_base(runtime_dir, config_file), guest)


def _base(runtime_dir: str | None, config_file: str | None) -> str:
    return config.runtime_dir(runtime_dir, config_file)


def is_acquiring(guest: Guest) -> bool:
    try:
        os.lstat(os.path.join(guest.path, rundir.CONTROL))
    except FileNotFoundError:
        return guest.guarded
    except OSError:  # another user's: cannot tell
        return False
    return False


def _ask(guests: Sequence[Guest]) -> list[Status | None]:
    """Return what the guards say of their guests, the files where they say nothing in time.

    None for a guest that has ended meanwhile. All are asked before the first
    is waited for, so that many silent ones cost no more than one.
    """
    answers: list[Status | None] = []
    for start in range(0, len(guests), _AT_ONCE):
        batch = guests[start : start + _AT_ONCE]
        deadline = time.monotonic() + client.ANSWER_S
        asked = [_begin(guest) for guest in batch]
        answers += [_end(guest, asked[i], deadline) for i, guest in enumerate(batch)]
    return answers


def _begin(guest: Guest) -> Client | None:
    if is_acquiring(guest) or not guest.guarded:
        return None
    try:
        connection = client.connect(guest.path)
    except client.NoAnswerError:
        return None
    try:
        connection.send("query-status")
    except client.NoAnswerError:
        connection.close()
        return None
    return connection


def _end(guest: Guest, connection: Client | None, deadline: float) -> Status | None:
    if connection is not None:
        with connection:
            try:
                answer = connection.receive(deadline)
            except client.NoAnswerError:
                answer = None
        if isinstance(answer, dict):
            return _weakened(answer)
    now = finding.look(guest.path)
    return None if now is None else _from_files(now)


def _weakened(answer: Status) -> Status:
    """Say of a guest's guarantee that it does not cover writers outside the guest.

    COMMAND is read from the supervisor's arguments: it has just answered, so
    that its memory can be read, which a guest that hangs may forbid.
    """
    from supervisor.discovery import disks, outside

    try:
        with open(f"/proc/{answer['supervisor_pid']}/cmdline", "rb") as file:
            words = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:  # it has ended meanwhile
        return answer
    command = words[words.index(END) + 1 :] if END in words else []
    writers = outside.writers(command) if command and disks.is_qemu(command[0]) else []
    if writers:
        said = f"writer outside the guest ({shown(writers[0])}); else {answer['guarantee']}"
        answer["guarantee"] = f"weakened: {said}"
    return answer


def _from_files(guest: Guest) -> Status:
    """Return a guest as `status` shows it, from what its files say alone."""
    record = guest.record
    leases = record.get("leases")
    if is_acquiring(guest):
        state, guarantee = "acquiring", "not started: its leases are being acquired"
    elif guest.guarded:
        state = "unknown"
        guarantee = f"unknown: the supervisor did not answer within {client.ANSWER_S:g} s"
    else:
        state, guarantee = "unknown", "its supervisor is dead: the kernel is ending the guest"
    return {
        "uuid": guest.uuid,
        "name": guest.name,
        "id": record.get("id"),
        "state": state,
        "supervisor_pid": record.get("supervisor_pid"),
        "child_pid": record.get("child_pid"),
        "plugin": record.get("plugin"),
        "containment": record.get("containment"),
        "guarantee": guarantee,
        "since": record.get("since"),
        "leases": [
            {**lease, "state": LeaseState.UNKNOWN}
            for lease in (leases if isinstance(leases, list) else ())
        ],
        "deadline_s": None,
        "unleased": [],
        "parked": None,
    }
