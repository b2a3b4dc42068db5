"""How does a lock manager come to know the process that the guest ends with?

Only for plugins that REGISTER: their lock manager asks the kernel who has
connected (unix(7), SO_PEERCRED), and frees the leases when the last copy of
that connection is closed. So the waiting child connects or, in a PID
namespace, init before it forks the guest, which inherits the connection; the
guard never has a copy. It must not know any lock manager.
"""

import posix

from lockplugins import registry
from lockplugins.contract import LockError
from supervisor import exitcodes
from supervisor.guard.descriptors import opened
from supervisor.guard.fork import REGISTER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.guard.fork import Launch
    from supervisor.spec import GuestSpec

BOUND_S = 10.0


def register(launch: "Launch", spec: "GuestSpec") -> list[int]:
    """Connect this process when the guard asks, or report why it cannot be.

    Returns what the guest is to inherit, out of the way of every number in its
    argv. Nothing else that the plugin or its libraries open is left open.
    """
    if posix.read(launch.go_read, 1) != REGISTER:
        posix._exit(exitcodes.OUR_FAULT)
    before = opened()
    try:
        plugin = registry.load(spec.plugin, spec.config, None, spec.classes)
        fds = plugin.in_child()
    except LockError as error:
        launch.refuse(error.exit_code, str(error))
        raise
    except BaseException as error:  # the plugin call edge
        fault = f"cannot register guest {spec.name}: our own fault: {error!r}"
        launch.refuse(exitcodes.OUR_FAULT, fault)
        raise
    for fd in opened() - before - set(fds):
        posix.close(fd)
    return [launch.shelf.lift(fd) for fd in fds]
