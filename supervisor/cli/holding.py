"""What do the commands that ask lock managers do: who, plan?

They acquire nothing and leave no trace: not even a dead guard's directory is
removed. It must not know any plugin, nor how options become a GuestSpec.
"""

from __future__ import annotations

import os

import click

from lockplugins import registry
from lockplugins.contract import Capability, Holder, LeaseState, LockError, Resource, ResourceType
from supervisor import config, exitcodes, finding, holders, specify
from supervisor.cli import candidates, render
from supervisor.cli.options import located, path
from supervisor.cli.run_options import ENDS_AT_COMMAND, describes_a_guest
from supervisor.discovery import disks
from supervisor.doctor.apart import answer
from supervisor.holders import Known
from supervisor.spec import GuestSpec, is_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from lockplugins.contract import Plugin
    from supervisor.specify import Given

    # What a lease would be called, who holds it, and why that cannot be told.
    Told = tuple[list[tuple[str | None, str | None]], list[Holder], LockError | None]

WITHIN_S = 20.0  # a lock manager's own bound is less, and says more

_FREE = exitcodes.NO_SUCH_GUEST
_HOLDS_NOTHING = {"no_discover": True, "disk": (), "lease": (), "domain_xml": None}


@click.command("who")
@click.argument("disk", type=path, metavar="DISK[,id=IDENTITY]")
@click.option(
    "--plugin",
    metavar="NAME[+NAME...]",
    help="The lock manager to ask (default: the configuration's, else file).",
    shell_complete=candidates.plugins,
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@located
def who_command(
    disk: str, plugin: str | None, config: str | None, runtime_dir: str | None, *, as_json: bool
) -> None:
    """Show who holds the leases on DISK.

    Exits with 0 if anybody does, with 1 if it is free, with 111 if that cannot
    be told. Takes nothing, and leaves no trace. With plugin vm, DISK is a guest's uuid; with
    etcd, a disk that has an identity is asked for by that.

    Example: lock-supervisor who /images/web1.qcow2
    """
    asked = _question(plugin, config, runtime_dir)
    asking = _load(asked)
    resource = _subject(asking, disk)
    what = f"who holds {resource.path}"
    names, found = answer(
        what, lambda: (asking.named(resource), asking.inquire(resource)), WITHIN_S
    )
    known = [holders.identify(holder, [resource.path], asked.runtime_dir) for holder in found]
    if as_json:
        leases = [
            {"mode": one.holder.mode, "state": LeaseState.HELD, "holder": one.as_json()}
            for one in known
        ]
        named = [{"lockspace": lockspace, "lease": lease} for lockspace, lease in names]
        render.put_json({"disk": resource.path, "names": named, "leases": leases})
    else:
        holding = [(one.holder.mode, one.words()) for one in known]
        render.put_holders(resource.path, names, holding)
    if not known:
        click.get_current_context().exit(_FREE)


@click.command("plan", context_settings=ENDS_AT_COMMAND)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@describes_a_guest()
def plan_command(*, as_json: bool, **given: Unpack[Given]) -> None:
    """Show what `run` would lease, why, and who holds it now. Touches nothing.

    Takes run's options; those that tell where to report (--ready-fd, --handshake-fd, --detach,
    --log) change nothing here.

    Example: lock-supervisor plan -- qemu-system-x86_64 -drive file=web1.qcow2
    """
    command = given["command"]
    if disks.is_qemu(command[0]) and disks.passes_through(command):
        given |= _HOLDS_NOTHING  # type: ignore[typeddict-item]  # a part of it
    plan = _Plan(specify.build(given))
    if as_json:
        render.put_json(plan.as_json())
    else:
        render.put_plan(plan.guest.name, plan.rows, plan.refusal)


class _Plan:
    """What a guest would be leased: a row for each lease, as `plan --json` shows it.

    `refusal` says why `run` would be refused now, None when nothing is seen that is in its way.
    """

    def __init__(self, guest: GuestSpec) -> None:
        self.guest = guest
        self.rows: list[dict[str, object]] = []
        self.refusal: str | None = None
        plugin = _load(guest)
        claims = registry.claims(plugin, guest.uuid, guest.resources)
        for resource, told in zip(claims, _ask(plugin, claims), strict=True):
            self._add(resource, *told)
        if finding.is_guarded(os.path.join(guest.runtime_dir, guest.uuid)):
            self.refusal = f"a guest with uuid {guest.uuid} runs in {guest.runtime_dir}"

    def as_json(self) -> dict[str, object]:
        return {
            "guest": {"name": self.guest.name, "uuid": self.guest.uuid},
            "plugin": self.guest.plugin,
            "resources": self.rows,
            "refusal": self.refusal,
        }

    def _add(
        self,
        resource: Resource,
        names: list[tuple[str | None, str | None]],
        found: list[Holder],
        error: LockError | None,
    ) -> None:
        known = self._holder(resource, found)
        if error:
            self.refusal = self.refusal or str(error)
            known = Known(Holder(resource.mode, f"cannot tell: {error}"), None, guarded=False)
        for lockspace, lease in names or [(None, None)]:
            self.rows.append(
                {
                    "path": resource.path,
                    "mode": resource.mode,
                    "found_in": resource.found_in,
                    "lockspace": lockspace,
                    "lease": lease,
                    "held_by": None if known is None else known.as_json(),
                }
            )

    def _holder(self, resource: Resource, found: list[Holder]) -> Known | None:
        """Return who is in the way, else one who shares the resource."""
        obstacles = [one for one in found if holders.is_in_the_way(one, resource)]
        if not found:
            return None
        known = holders.identify((obstacles or found)[0], [resource.path], self.guest.runtime_dir)
        if obstacles:
            held = f"{resource.type} {resource.path} is held by {known.words()}"
            self.refusal = self.refusal or held
        return known


def _ask(plugin: Plugin, claims: Sequence[Resource]) -> list[Told]:
    """Ask about each; what hangs leaves all of them untold."""
    try:
        return answer("who holds the disks", lambda: [_told(plugin, r) for r in claims], WITHIN_S)
    except LockError as error:
        return [([], [], error)] * len(claims)


def _told(plugin: Plugin, resource: Resource) -> Told:
    names: list[tuple[str | None, str | None]] = []
    try:
        names += plugin.named(resource)
        return names, plugin.inquire(resource), None
    except LockError as error:
        return names, [], error


def _subject(plugin: Plugin, text: str) -> Resource:
    """Return what `who` is asked about: a guest, if the plugin leases such, or a disk."""
    if is_uuid(text.lower()) and Capability.VM in plugin.capabilities:
        return Resource(text.lower(), resource_type=ResourceType.VM)
    path, _, identity = text.rpartition(",id=")  # as in --disk
    named = Resource(disks.named(path or text, config.working_directory()))
    named.identity = identity if path else None
    return named


def _question(plugin: str | None, config_file: str | None, base: str | None) -> GuestSpec:
    """Return as much of a spec as a question needs; raises LockError."""
    try:
        runtime_dir = config.runtime_dir(base, config_file)
    except config.NoRundirError:
        runtime_dir = ""  # a guest is then found by its guard alone
    asked = GuestSpec("who", "", runtime_dir)
    specify.choose_plugins(asked, plugin, config.read(config_file))
    return asked


def _load(spec: GuestSpec) -> Plugin:
    """Return the plugin of a guest, to be asked."""
    return registry.load(spec.plugin, spec.config, None, spec.classes)
