"""Who holds one of the files that stand for a resource? Finds them, and asks the kernel's books.

Imported only when somebody asks. Creates nothing.
"""

from __future__ import annotations

from lockplugins.file import names
from lockplugins.kernel_locks import books
from lockplugins.kernel_locks.lockfile import called

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from lockplugins.contract import Holder, Resource


def of_resource(resource: Resource, config: Mapping[str, str]) -> list[Holder]:
    """Return all who hold a lock that `resource` needs, ourselves included; raises LockError."""
    located = names.locate(resource, config)
    name = called(resource)
    try:
        for directory, lock_file in located.lock_files:
            if (fd := books.open_lock_file(directory, lock_file, name)) is not None:
                located.found.append(names.Found(fd, f"{directory}/{lock_file}"))
        return books.of_files([found.fd for found in located.found], name)
    finally:
        located.close()
