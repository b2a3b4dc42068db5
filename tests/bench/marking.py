"""When does the guard pass which line of its launch? Runs it with marks, as a script of its own.

Called as `PYTHON -I -S marking.pyc CHECKOUT FD KEY=VALUE… -- COMMAND…`; writes
"MILESTONE NANOSECONDS" lines to FD when the guard has cleared its directory. Imports nothing
that the guard does not, so that what it finds is what the guard costs.
"""

import posix
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

marks = [("first line", time.monotonic_ns())]

# module, class or "", function: marked when entered, and when left.
FUNCTIONS = (
    ("supervisor.guard.main", "Signals", "__init__"),
    ("supervisor.spec", "", "parse"),
    ("lockplugins.registry", "", "plugin_classes"),
    ("supervisor.guard.prepare", "Prepared", "__init__"),
    ("supervisor.guard.prepare", "GuardDir", "claim"),
    ("supervisor.guard.fork", "", "fork"),
    ("supervisor.guard.launching", "Launching", "_acquire"),
    ("supervisor.guard.record", "Record", "publish_acquiring"),
    ("lockplugins.registry", "", "load"),
    ("supervisor.guard.launching", "Launching", "_register"),
    ("lockplugins.registry", "", "claims"),
    ("supervisor.guard.supervise", "Supervisor", "acquire"),
    ("supervisor.guard.record", "Record", "publish_acquired"),
    ("supervisor.guard.fork", "Launch", "go"),
    ("supervisor.guard.supervise", "Supervisor", "_ended"),
    ("supervisor.guard.prepare", "GuardDir", "remove"),
)
LAST = "remove"


def mark(milestone: str) -> None:
    marks.append((milestone, time.monotonic_ns()))


def watch(module: str, owner: str, name: str, fd: int) -> None:
    """Mark the calls of one function; one that is not there is not marked."""
    scope: Any = sys.modules[module]
    if owner:
        scope = getattr(scope, owner, None)
    function = getattr(scope, name, None)
    if function is None:
        return

    def marked(*args: "Any", **kwargs: "Any") -> "Any":
        mark(f"enter {name if owner != 'Prepared' else 'Prepared'}")
        try:
            return function(*args, **kwargs)
        finally:
            mark(f"leave {name}")
            if name == LAST:
                text = "".join(f"{milestone}\t{at}\n" for milestone, at in marks)
                posix.write(fd, text.encode())

    setattr(scope, name, marked)


def run(checkout: str, fd: int) -> None:
    sys.path.insert(0, checkout)
    from supervisor.guard import main

    mark("main imported")
    found = [word[7:] for word in sys.argv if word.startswith("import=")]
    sys.path[1:1] = found
    from supervisor.guard import prepare, supervise

    mark("rest imported")
    assert prepare is not supervise
    del sys.path[1 : 1 + len(found)]
    for module, owner, name in FUNCTIONS:
        watch(module, owner, name, fd)
    del sys.argv[1:3]
    mark("watching")
    main.main()


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]))
