"""How does a management daemon start, find, change and end guests? The seed's calls, name for name.

One object a guest, none of them a thread. What it asks is asked of the guest's
guard, which knows nothing of us: a daemon that has been restarted, killed or
replaced attaches again by uuid alone. Calls return True or their value, and
raise a LockError. It must not know any lock manager.
"""

from __future__ import annotations

import os

from lockplugins.contract import Capability, ConfigError, Mode, UnsupportedError
from supervisor import client, config, finding, getchild, rundir, specify
from supervisor.ending import UnkillableError, Witnesses, revoke
from supervisor.orders import WITHIN_S, order
from supervisor.parameters import Parameters, from_root, lease_from_root
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
_STARTED, _ATTACHED, _ENDED, _FREED = "started", "attached", "ended", "freed"
_LIVE = (_PREFIXED, _STARTED, _ATTACHED)


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
        wanted = checked(NewFlags, flags)
        self._capabilities, self._plugin = plugin.capabilities, plugin.name
        self._parameters = Parameters(plugin.name, config, runtime_dir)
        self._state = _ATTACHED if NewFlags.ATTACH in wanted else _NEW
        self._starting: Starting | None = None
        self._place, self._prepared = Whereabouts(), False
        if NewFlags.MIGRATE in wanted:
            if self._state == _ATTACHED:
                why = "a guest that is attached to tells by itself whether it is incoming"
                raise ConfigError("manage", "a guest", why, "give ATTACH or MIGRATE")
            self._need(Capability.MIGRATION, "migrate")
            self._parameters.set("incoming", value=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._state != _FREED:
            self.free()

    def free(self) -> bool:
        """Drop the handle; a guest that runs, and its leases, stay as they are."""
        self._check("free", _NEW, _ACQUIRED, *_LIVE, _ENDED)
        self._close_starting()
        self._state = _FREED
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
        if leased(resource_type) is ResourceType.DISK:
            self._parameters.register_disk(path, shared=shared)
        else:
            self._parameters.register_lease(path, shared=shared)
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
        self._check("acquire_object", _NEW)
        if not argv:
            raise ConfigError("start", f"guest {self._parameters.name}", "argv is empty")
        spec = specify.build(self._parameters.given(argv))
        starting = Starting(spec, argv, self._parameters.log, pass_fds)
        try:
            starting.acquire()
        except BaseException:
            starting.close()
            raise
        self._starting, self._state = starting, _ACQUIRED
        self._place = Whereabouts(os.path.join(spec.runtime_dir, spec.uuid))
        return True

    def run(self) -> bool:
        """Let the guest that waits execute, and return when it does."""
        self._check("run", _ACQUIRED)
        self._state = _ENDED  # unless it begins now
        try:
            if self._starting is not None:
                self._starting.go()
        finally:
            self._close_starting()
        self._state = _STARTED
        return True

    def get_child(self, timeout_s: float = 10) -> Child:
        """Return the guest's process, when it runs; its pidfd is the caller's to close."""
        self._check("get_child", *_LIVE)
        expected = self._state == _PREFIXED
        child = getchild.running_child(self._where(), timeout_s, expected=expected)
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
        name = (lease_from_root if leased(kind) is ResourceType.LEASE else from_root)(path)
        asked = {"type": kind.value, "path": name, **more}
        order(self._where(), command, asked, f"whether {name} is leased", WITHIN_S)

    def prepare_migrate(self, uri: str) -> str:
        """Begin a migration of the guest to `uri`; returns the cookie for its destination."""
        self._check("prepare_migrate", *_LIVE)
        cookie = self._migrate("prepare-migrate", {"uri": uri})["cookie"]
        self._prepared = True
        return str(cookie)

    def complete_migrate_in(self, flags: int = 0, cookie: str | None = None) -> bool:
        """Make the guest that has come the owner of its disks; now it may run.

        On the source, where the seed calls it as well, it is `complete_migrate_out`.
        """
        self._check("complete_migrate_in", *_LIVE)
        self._need(Capability.MIGRATION, "complete-migrate-in")
        if self._prepared or self._is_leaving():
            return self.complete_migrate_out(flags)
        cancel = bool(checked(MigrateFlags, flags))
        told = cookie if cookie is not None else self._parameters.cookie
        self._migrate("complete-migrate-in", {"cookie": told, "cancel": cancel})
        return True

    def complete_migrate_out(self, flags: int = 0) -> bool:
        """End what is left of the guest that has gone, or with CANCEL be its owner again."""
        self._check("complete_migrate_out", *_LIVE)
        self._migrate("complete-migrate-out", {"cancel": bool(checked(MigrateFlags, flags))})
        self._prepared = False
        return True

    def _is_leaving(self) -> bool:
        """Does the guard say that its guest is on its way? A daemon may have been restarted."""
        return client.get_child(self._where()).state in ("migrating-out", "migrated")

    def _migrate(self, command: str, arguments: dict[str, object]) -> dict[str, object]:
        self._need(Capability.MIGRATION, command)
        doubt = f"how the migration of guest {self._parameters.name} stands"
        return order(self._where(), command, arguments, doubt, WITHIN_S)

    def shutdown(self, timeout_s: float = 10) -> bool:
        """Wait until guest and leases are gone; ends nothing. Raises GuestRunsError."""
        guest = self._find("shutdown")
        if guest is not None:
            try:
                with Witnesses(guest) as witnesses:
                    witnesses.wait(timeout_s)
            except UnkillableError as error:
                name, reason = f"guest {guest.words()}", f"it is still there after {timeout_s:g} s"
                advice = "have QEMU quit, or kill_supervisor()"
                raise GuestRunsError("shut down", name, reason, advice) from error
            rundir.remove_dead(guest.path)
        return self._end()

    def kill_supervisor(self) -> bool:
        """SIGKILL the supervisor; guest and leases are proven gone when this returns."""
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
        if self._starting is not None:
            self._starting.close()
            self._starting = None

    def _where(self) -> str:
        """Return the guest's runtime directory, and remember who is there.

        Raises WrongOrderError before its uuid is known.
        """
        if not self._place:
            uuid = self._parameters.uuid
            if uuid is None:
                advice = 'set_parameter("uuid", ...) first'
                raise WrongOrderError("find", "the guest", "its uuid was not said", advice)
            given = self._parameters.given()
            base = config.runtime_dir(given["runtime_dir"], given["config"])
            self._place = Whereabouts(os.path.join(base, uuid))
        return self._place.look()

    def _check(self, call: str, *states: str) -> None:
        if self._state not in states:
            name, reason = f"{call} for guest {self._parameters.name}", f"it is {self._state}"
            advice = f"possible when it is {' or '.join(states)}"
            raise WrongOrderError("call", name, reason, advice)

    def _need(self, capability: str, verb: str) -> None:
        if capability not in self._capabilities:
            name, reason = f"guest {self._parameters.name}", f"plugin {self._plugin} has no"
            raise UnsupportedError(verb, name, f"{reason} {capability}", "nothing was touched")
