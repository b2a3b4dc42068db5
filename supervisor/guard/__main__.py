"""How is the guard called? `PYTHON -I -S …/guard/__main__.py KEY=VALUE… -- COMMAND…`.

A script is compiled at every start, so this one only finds the rest.
"""

import sys

sys.path.insert(0, __file__.removesuffix("/supervisor/guard/__main__.py"))

from supervisor.guard.main import main

main()
