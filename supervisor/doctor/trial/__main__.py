"""How is a trial called? `PYTHON -I -S …/__main__.py PIDFD NAME KEY=VALUE… -- COMMAND…`.

PIDFD is doctor's own, NAME the trial's; the rest is what a guard would be told.
"""

import sys

sys.path.insert(0, __file__.removesuffix("/supervisor/doctor/trial/__main__.py"))

from supervisor.doctor.trial.main import main

main()
