"""Does QEMU run its guest, and how far is its migration? Small conversations with a monitor.

Each calls one of its continuations once. It must not know what follows from the answer.
"""

from __future__ import annotations

from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.qmp.monitor import Monitor

    Failed = Callable[[str], None]

ANSWER_S = 30.0  # a QEMU that is just starting, or finishes its I/O, on a busy host
OVER = ("", "none", "completed", "failed", "cancelled")  # a migration (qapi/migration.json)
# What may write on while the guest has stopped. An export does not say whether it is writable.
_WRITERS = {
    "query-jobs": "a job is under way",
    "query-block-jobs": "a block job is under way",
    "query-block-exports": "it exports a block device",
}


def enable(monitor: Monitor, capability: str, then: Callable[[], None], failed: Failed) -> None:
    """Set one of QEMU's migration capabilities, of which it keeps the others."""
    monitor.execute(
        "migrate-set-capabilities",
        {"capabilities": [{"capability": capability, "state": True}]},
        lambda _result, reason: then() if reason is None else failed(reason),
        ANSWER_S,
    )


def look(monitor: Monitor, then: Callable[[str, str], None], failed: Failed) -> None:
    """Call `then(status of QEMU, status of its migration)`, the latter "" if there was none."""
    found: list[str] = []

    def answered(result: object, reason: str | None) -> None:
        found.append(str(result.get("status", "")) if isinstance(result, dict) else "")
        if reason is not None:
            failed(reason)
        elif len(found) == 1:
            monitor.execute("query-migrate", {}, answered, ANSWER_S)
        else:
            then(found[0], found[1])

    monitor.execute("query-status", {}, answered, ANSWER_S)


def stop(monitor: Monitor, then: Callable[[], None], failed: Failed) -> None:
    """Have the guest stop, and QEMU say that it does not run."""

    def stopped(_result: object, reason: str | None) -> None:
        if reason is None:
            monitor.execute("query-status", {}, looked, ANSWER_S)
        else:
            failed(reason)

    def looked(result: object, reason: str | None) -> None:
        if isinstance(result, dict) and result.get("running") is False:
            then()
        else:
            failed(reason or "somebody has it run again")

    monitor.execute("stop", {}, stopped, ANSWER_S)


def quiet(monitor: Monitor, then: Callable[[], None], failed: Failed, timeout_s: float) -> None:
    """Have the guest stop, and QEMU say that nothing else of it may write on.

    All is asked at once, so that no answer has to be waited for before the next question.
    """
    left = ["stop", *_WRITERS, "query-migrate", "query-status"]
    found: dict[str, object] = {}

    def answered(command: str, result: object, reason: str | None) -> None:
        if not left:
            return  # it has failed already
        left.remove(command)
        found[command] = result
        why = reason or ("" if left else _not_quiet(found))
        if why:
            left.clear()
            failed(why)
        elif not left:
            then()

    for command in tuple(left):
        monitor.execute(command, {}, partial(answered, command), timeout_s)


def _not_quiet(found: dict[str, object]) -> str:
    """Return what may write on, by QEMU's answers; nothing if all of them say that nothing may."""
    migration, status = found["query-migrate"], found["query-status"]
    for command, why in _WRITERS.items():
        if found[command] != []:
            return why
    if not isinstance(migration, dict) or migration.get("status", "") not in OVER:
        return "a migration is under way"
    if not isinstance(status, dict) or status.get("running") is not False:
        return "somebody has it run again"
    return ""
