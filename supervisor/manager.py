"""How does a management daemon start, find, change and end guests? The seed's calls, name for name.

One object a guest, none of them a thread. What it asks is asked of the guest's
guard, which knows nothing of us: a daemon that has been restarted, killed or
replaced attaches again by uuid alone. Calls return True or their value, and
raise a LockError. It must not know any lock manager.
"""

from __future__ import annotations

import os
import threading

from lockplugins.contract import Capability, ConfigError, LockError, Mode, UnsupportedError, shown
from supervisor import client, finding, getchild, given, rundir, specify
from supervisor.ending import GONE_WITHIN_S, is_gone, revoke
from supervisor.orders import WITHIN_S, order
from supervisor.parameters import Parameters, disk_from_root, lease_from_root
from supervisor.spec import render
from supervisor.starting import Starting
from supervisor.vocabulary import (
    GuestRunsError,
    MigrateFlags,
    NewFlags,
    ObjectType,
    ResourceFlags,
    ResourceType,
    WrongOrderError,
    checked,
    leased,
)
from supervisor.whereabouts import Whereabouts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from lockplugins.loading import LoadedPlugin
    from supervisor.client import Child
    from supervisor.finding import Guest

__all__ = ["LockManager", "MigrateFlags", "NewFlags", "ObjectType", "ResourceFlags", "ResourceType"]

# Where a manager is between being made and being freed.
_NEW, _PREFIXED, _ACQUIRED = "new", "handed out as a prefix", "acquired"
_ACQUIRING = "being acquired, in another thread"
_STARTED, _ATTACHED, _ENDED, _FREED = "started", "attached", "ended", "freed"
_LIVE = (_PREFIXED, _STARTED, _ATTACHED)
_LEAVING = ("migrating-out", "migrated")  # as its guard says it


class LockManager:
    """One guest's leases, on behalf of a daemon. Freed, or left as a context, it ends no guest.

    Configuration and defaults are the command line's. A guest whose leases are
    acquired and that was not told to run yet goes with the manager.
    """

    def __init__(
        self,
        plugin: LoadedPlugin,
        object_type: ObjectType,
        flags: int = 0,
        *,
        config: str | None = None,
        runtime_dir: str | None = None,
    ) -> None:
        if object_type is not ObjectType.DOMAIN:
            raise ConfigError("manage", f"{object_type}", "not an ObjectType", "give DOMAIN")
        wanted, loaded = checked(NewFlags, flags), given.plugin(plugin)
        self._capabilities, self._plugin = loaded.capabilities, loaded.name
        self._parameters = Parameters(loaded.name, config, runtime_dir)
        self._state = _ATTACHED if NewFlags.ATTACH in wanted else _NEW
        self._moving = threading.Lock()
        self._starting: Starting | None = None
        self._place, self._prepared = Whereabouts(), False
        if NewFlags.MIGRATE in wanted:
            if self._state == _ATTACHED:
                why = "a guest that is attached to tells by itself whether it is incoming"
                raise ConfigError("manage", "a guest", why, "give ATTACH or MIGRATE")
            self._need(Capability.MIGRATION, "migrate")
            self._parameters.set("incoming", value=True)

    def __repr__(self) -> str:
        return f"<manager of guest {shown(self._parameters.name)}: {self._state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._state != _FREED:
            self.free()

    def free(self) -> bool:
        """Drop the handle; a guest that runs, and its leases, stay as they are."""
        self._check("free", _NEW, _ACQUIRED, *_LIVE, _ENDED, then=_FREED)
        self._close_starting()
        return True

    def set_parameter(self, key: str, value: object) -> bool:
        """Say `id`, `uuid`, `name`, `cookie`, or one of run's long options, with _ for -."""
        allowed = (_ACQUIRED, *_LIVE) if key == "cookie" else (_ATTACHED,)
        self._check("set_parameter", _NEW, *allowed)
        self._parameters.set(key, value)
        if self._state == _ATTACHED and key != "cookie":
            self._place = Whereabouts()
        return True

    def register_resource(self, resource_type: ResourceType, path: str, flags: int = 0) -> bool:
        """Have a disk by its path, or a lease LOCKSPACE:KEY[:PATH[:OFFSET]], acquired too."""
        self._check("register_resource", _NEW)
        shared = bool(checked(ResourceFlags, flags))
        is_disk = leased(resource_type) is ResourceType.DISK
        register = self._parameters.register_disk if is_disk else self._parameters.register_lease
        register(path, shared=shared)
        return True

    def get_supervisor_path(self) -> str:
        """Return the program to execute in front of the guest's command line."""
        return self._prefix("get_supervisor_path")[0]

    def get_supervisor_args(self) -> list[str]:
        """Return its arguments; the guest's command line follows them.

        Leased is what was registered: the command line is not known here.
        """
        return self._prefix("get_supervisor_args")[1:]

    def _prefix(self, call: str) -> list[str]:
        self._check(call, _NEW, _PREFIXED)
        if self._state == _NEW:
            spec = specify.build(self._parameters.given())
            self._place = Whereabouts(os.path.join(spec.runtime_dir, spec.uuid))
            self._words = render(spec)
            self._state = _PREFIXED
        return list(self._words)

    def acquire_object(self, argv: Sequence[str], pass_fds: Sequence[int] = ()) -> bool:
        """Start the guest's supervisor: every lease held, the guest waiting for `run`.

        The guest gets the descriptors `pass_fds`, /dev/null for its input, and
        the log (parameter `log`, else as run --detach) for its output. Raised:
        nothing held, nothing started. Waits no longer than the parameter `wait`.
        """
        self._check("acquire_object", _NEW, then=_ACQUIRING)
        try:
            command, fds = given.arguments("argv", argv), given.descriptors("pass_fds", pass_fds)
            spec = specify.build(self._parameters.given(command))
            starting = Starting(spec, command, self._parameters.log, fds)
            starting.acquire()
        except BaseException:
            self._state = _NEW
            raise
        self._starting, self._state = starting, _ACQUIRED
        self._place = Whereabouts(os.path.join(spec.runtime_dir, spec.uuid))
        return True

    def run(self) -> bool:
        """Let the guest that waits execute, and return when it does."""
        self._check("run", _ACQUIRED, then=_STARTED)  # or so, if this is interrupted
        try:
            if self._starting is not None:
                self._starting.go()
        except LockError:
            self._state = _ENDED
            raise
        finally:
            self._close_starting()
        return True

    def get_child(self, timeout_s: float = 10) -> Child:
        """Return the guest's process, when it runs; its pidfd is the caller's to close."""
        self._check("get_child", *_LIVE)
        expected, wait_s = self._state == _PREFIXED, given.seconds("timeout_s", timeout_s)
        child = getchild.running_child(self._where(), wait_s, expected=expected)
        self._state = _STARTED if expected else self._state  # it has been seen
        self._where()
        return child

    def acquire_resource(self, resource_type: ResourceType, path: str, flags: int = 0) -> bool:
        """Acquire a lease for the guest that runs; of a disk before QEMU's blockdev-add."""
        self._check("acquire_resource", *_LIVE)
        mode = Mode.SHARED if checked(ResourceFlags, flags) else Mode.EXCLUSIVE
        self._change("acquire-resource", resource_type, path, mode=mode)
        return True

    def release_resource(self, resource_type: ResourceType, path: str, flags: int = 0) -> bool:
        """Release a lease; of a disk after QEMU's DEVICE_DELETED and blockdev-del."""
        self._check("release_resource", *_LIVE)
        checked(ResourceFlags, flags)
        self._change("release-resource", resource_type, path)
        return True

    def _change(self, command: str, kind: ResourceType, path: str, **more: object) -> None:
        self._need(Capability.HOTPLUG, command)
        name = (lease_from_root if leased(kind) is ResourceType.LEASE else disk_from_root)(path)
        asked = {"type": kind.value, "path": name, **more}
        order(self._where(), command, asked, f"whether {name} is leased", WITHIN_S)

    def prepare_migrate(self, uri: str) -> str:
        """Begin a migration of the guest to `uri`; returns the cookie for its destination."""
        self._check("prepare_migrate", *_LIVE)
        cookie = self._migrate("prepare-migrate", {"uri": given.text("uri", uri)})["cookie"]
        self._prepared = True
        return str(cookie)

    def complete_migrate_in(self, flags: int = 0, cookie: str | None = None) -> bool:
        """Make the guest that has come the owner of its disks; now it may run.

        On the source, where the seed calls it as well, it is `complete_migrate_out`.
        """
        self._check("complete_migrate_in", *_LIVE)
        self._need(Capability.MIGRATION, "complete-migrate-in")
        # A daemon may have been restarted since it prepared: the guard knows.
        if self._prepared or client.get_child(self._where()).state in _LEAVING:
            return self.complete_migrate_out(flags)
        cancel = bool(checked(MigrateFlags, flags))
        told = self._parameters.cookie if cookie is None else given.text("cookie", cookie)
        self._migrate("complete-migrate-in", {"cookie": told, "cancel": cancel})
        return True

    def complete_migrate_out(self, flags: int = 0) -> bool:
        """End what is left of the guest that has gone, or with CANCEL be its owner again."""
        self._check("complete_migrate_out", *_LIVE)
        self._migrate("complete-migrate-out", {"cancel": bool(checked(MigrateFlags, flags))})
        self._prepared = False
        return True

    def _migrate(self, command: str, arguments: dict[str, object]) -> dict[str, object]:
        self._need(Capability.MIGRATION, command)
        doubt = f"how the migration of guest {self._parameters.name} stands"
        return order(self._where(), command, arguments, doubt, WITHIN_S)

    def shutdown(self, timeout_s: float = 10) -> bool:
        """Wait until guest and leases are gone; ends nothing. Raises GuestRunsError."""
        within_s, guest = given.seconds("timeout_s", timeout_s), self._find("shutdown")
        if guest is not None:
            if not is_gone(guest, within_s):
                name, reason = f"guest {guest.words()}", f"it is still there after {within_s:g} s"
                advice = "have QEMU quit, or kill_supervisor()"
                raise GuestRunsError("shut down", name, reason, advice)
            rundir.remove_dead(guest.path)
        return self._end()

    def kill_supervisor(self) -> bool:
        """SIGKILL the supervisor; guest and leases are proven gone when this returns.

        Under etcd the leases go when their time has passed, as nobody is left to give them back.
        """
        guest = self._find("kill_supervisor")
        if guest is not None:
            revoke(guest)
        return self._end()

    def _find(self, call: str) -> Guest | None:
        """Return the guest that is to end, None if it has."""
        self._check(call, _ACQUIRED, *_LIVE, _ENDED)
        self._where()
        guest = self._place.guest()
        if guest is None and self._state == _PREFIXED:
            name, reason = f"guest {self._parameters.name}", "no supervisor of it has been seen"
            advice = "end the process that you started"
            raise finding.NoSuchGuestError("find", name, reason, advice)
        return guest

    def _end(self) -> bool:
        self._close_starting()
        self._state = _ENDED
        return True

    def _close_starting(self) -> None:
        """Let go of the launch; of a guest that does not run nothing is left then."""
        starting, self._starting = self._starting, None
        if starting is not None and not starting.close() and (guest := self._place.guest()):
            is_gone(guest, GONE_WITHIN_S)

    def _where(self) -> str:
        """Return the guest's own directory, and remember who is there; needs its uuid."""
        if not self._place:
            if (place := self._parameters.place) is None:
                advice = 'set_parameter("uuid", ...) first'
                raise WrongOrderError("find", "the guest", "its uuid was not said", advice)
            self._place = Whereabouts(place)
        return self._place.look()

    def _check(self, call: str, *states: str, then: str | None = None) -> None:
        """Refuse a call out of order, else move to `then`; of two threads one does."""
        with self._moving:
            if self._state not in states:
                name, reason = f"{call} for guest {self._parameters.name}", f"it is {self._state}"
                advice = f"possible when it is {' or '.join(states)}"
                raise WrongOrderError("call", name, reason, advice)
            self._state = then or self._state

    def _need(self, capability: str, verb: str) -> None:
        if capability not in self._capabilities:
            name, reason = f"guest {self._parameters.name}", f"plugin {self._plugin} has no"
            raise UnsupportedError(verb, name, f"{reason} {capability}", "nothing was touched")
