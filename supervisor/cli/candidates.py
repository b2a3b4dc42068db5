"""What may a value be completed to? Guests, their disks, plugins: what files alone tell.

Nothing is asked or removed, since a person only looks. Each function is a
`shell_complete` of click's: (context, parameter, what is typed) -> candidates.
It must not know any shell.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

    from supervisor.finding import Guest


def guests(
    context: click.Context, _parameter: click.Parameter, typed: str
) -> list[CompletionItem[str]]:
    """The living guests: by name where it is theirs alone, by uuid if it begins so."""
    from click.shell_completion import CompletionItem

    living = _guests(context)
    names = [guest.name for guest in living]
    found = []
    for guest in living:
        named = guest.name != "" and names.count(guest.name) == 1
        if named and guest.name.startswith(typed):
            found.append(CompletionItem(guest.name, help=guest.uuid))
        elif guest.uuid.startswith(typed.lower()) and (typed or not named):
            found.append(CompletionItem(guest.uuid, help=guest.name))
    return found


def leased(context: click.Context, _parameter: click.Parameter, typed: str) -> list[str]:
    """The disks that the guest named before has leased, as far as its record tells."""
    given = context.params.get("guest")
    paths: list[str] = []
    for guest in _guests(context):
        leases = guest.record.get("leases")
        if given in (guest.name, guest.uuid) and isinstance(leases, list):
            paths += [str(lease.get("resource")) for lease in leases]
    return [path for path in paths if path.startswith(typed)]


def plugins(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[str]:
    """The plugins that are installed, as one more of NAME+NAME."""
    from lockplugins import loading, registry

    before, joined, last = typed.rpartition(registry.JOIN)
    names = registry.known(dict.fromkeys(loading.entry_points_classes(), ""))
    free = [name for name in names if name not in before.split(registry.JOIN)]
    return [before + joined + name for name in free if name.startswith(last)]


def on_lockfailure(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[str]:
    from supervisor.spec import OnLockFailure

    return [word for word in OnLockFailure.ALL if word.startswith(typed)]


def command(
    _context: click.Context, _parameter: click.Parameter, typed: str
) -> list[CompletionItem[str]]:
    """The first word of COMMAND: what the shell could execute."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(typed, type="command")]


def _guests(context: click.Context) -> list[Guest]:
    """Return the guests of the runtime directory that the words before mean."""
    from lockplugins.contract import LockError
    from supervisor import config, finding

    given = context.params
    try:
        return finding.guarded(config.runtime_dir(given.get("runtime_dir"), given.get("config")))
    except LockError:  # there is none: no candidates either
        return []
