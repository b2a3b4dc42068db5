"""How is the guard called? `PYTHON -I -S …/guard/__main__.py KEY=VALUE… -- COMMAND…`.

A script is compiled at every start, so this one only finds the rest.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # no traceback, until it is blocked
sys.path.insert(0, __file__.removesuffix("/supervisor/guard/__main__.py"))

from supervisor.guard.main import main  # noqa: E402  # found by the line above

main()
