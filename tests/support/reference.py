"""What can a program call? Prints docs/reference.md: `python -m tests.support.reference`.

All of it is read off the code: names, signatures, docstrings. A test compares
the page. What needs more than a sentence is in docs/api.md, by hand.
"""

from __future__ import annotations

import inspect
import re
from enum import Enum

from lockplugins import contract, loading
from supervisor import client, domain_lock, finding, getchild, manager, starting, vocabulary
from supervisor.discovery import disk, domain_xml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

PATH = "docs/reference.md"
COMMAND = f".venv/bin/python -m tests.support.reference >{PATH}"
_HEAD = f"""<!-- Read off the code: {COMMAND} -->
# What a program can call

Names, signatures and docstrings of the packages; [api.md](api.md) tells how they belong together.
"""
# What is public, by the name of the module that a program imports it from.
_PUBLIC: dict[str, tuple[object, ...]] = {
    "lockplugins": (loading.load, loading.LoadedPlugin),
    "supervisor.manager": (
        manager.LockManager,
        *(getattr(manager, name) for name in manager.__all__ if name != "LockManager"),
        client.Child,
    ),
    "supervisor.domain_lock": tuple(
        value
        for value in vars(domain_lock).values()
        if inspect.isfunction(value)
        and value.__module__ == domain_lock.__name__
        and not value.__name__.startswith("_")
    ),
    "supervisor.discovery": (domain_xml.parse, domain_xml.Domain, disk.Disk),
}
_ERRORS: tuple[ModuleType, ...] = (
    contract,
    loading,
    vocabulary,
    finding,
    getchild,
    starting,
    client,
)


def page() -> str:
    """Return the whole page."""
    parts = [_HEAD]
    for module, public in _PUBLIC.items():
        parts.append(f"## {module}\n")
        parts += [text for thing in public for text in _described(thing, "###")]
    parts += ["## Errors\n", "Each has `verb`, `name`, `reason`, `advice` and `exit_code`.\n"]
    parts += ["| | exit | |", "|---|---:|---|", *_errors(), ""]
    return "\n".join(parts)


def _described(thing: object, mark: str) -> Iterator[str]:
    """Yield a function, or a class with what is public of it."""
    name = getattr(thing, "__name__", "")
    if isinstance(thing, type) and issubclass(thing, Enum):
        members = " ".join(f"`{member}`" for member in thing.__members__)
        yield f"{mark} {name}\n\n{inspect.getdoc(thing)}\n\n{members}\n"
        return
    assert callable(thing)
    yield f"{mark} {name}\n\n```python\n{name}{_signature(thing)}\n```\n\n{inspect.getdoc(thing)}\n"
    if isinstance(thing, type):
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and inspect.isfunction(value):
                yield from _described(value, f"{mark}#")
            elif isinstance(value, property):
                yield f"{mark}# {attribute}\n\n{inspect.getdoc(value)}\n"


def _signature(thing: object) -> str:
    assert callable(thing)
    signature = inspect.signature(thing)
    kept = [parameter for name, parameter in signature.parameters.items() if name != "self"]
    text = str(signature.replace(parameters=kept))
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text).removesuffix(" -> None")


def _errors() -> Iterator[str]:
    """Yield a row for each error that a program can be told by name."""
    for module in _ERRORS:
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and issubclass(value, contract.LockError):
                yield f"| `{value.__name__}` | {value.exit_code} | {_first_line(value)} |"


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


if __name__ == "__main__":
    print(page(), end="")
