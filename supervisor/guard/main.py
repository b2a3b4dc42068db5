"""How does the guard start, and what if it cannot?"""

import gc
import posix
import sys

from lockplugins import registry
from lockplugins.contract import LockError, cause
from supervisor import exitcodes, spec
from supervisor.guard import announce
from supervisor.guard.signals import Signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> "NoReturn":
    """Run the guest that our arguments describe, and exit with what they ask for."""
    gc.disable()  # until the guest runs: a launch leaves no cycles to look for
    code = exitcodes.OUR_FAULT
    try:
        code = _supervise(sys.argv[1:])
    except BaseException as error:  # noqa: BLE001  # the top of the loop: the guest ends with us
        announce.say(f"cannot supervise the guest: our own fault: {error!r}; it ends with us")
    finally:
        posix._exit(code)


def _supervise(words: list[str]) -> int:
    launcher_signals = Signals()
    guest = None
    try:
        guest, command = spec.parse(words)
        # Ahead of the standard library for the launch: it has nothing in files that we import,
        # and listing its directories costs 1 ms. Behind it for the rest of our life (D2).
        sys.path[1:1] = guest.import_dirs
        from supervisor.guard.prepare import Prepared
        from supervisor.guard.supervise import Supervisor

        # Before the fork: every page that an import touches after it is copied first.
        registry.plugin_classes(guest.plugin, guest.classes)
        prepared = Prepared(guest, command, launcher_signals)
        del sys.path[1 : 1 + len(guest.import_dirs)]
        sys.path += guest.import_dirs
    except (LockError, OSError) as error:
        if isinstance(error, OSError):
            error = LockError("start", "the guest", cause(error, error.filename), "see ulimit -a")
        announce.refusal(guest.ready_fd if guest else None, error.exit_code, str(error))
        return error.exit_code
    return Supervisor(guest, prepared, launcher_signals).run()
