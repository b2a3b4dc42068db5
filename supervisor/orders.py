"""How is a guard told to change something, and what if it does not say that it did?

It must not know the commands of the control pipe.
"""

from __future__ import annotations

from lockplugins.contract import LeaseUnknownError
from supervisor import client

WITHIN_S = 60.0  # a lock manager in a cluster may take its time


def order(
    path: str, command: str, arguments: dict[str, object], doubt: str, within_s: float
) -> dict[str, object]:
    """Return the answer of the guard of `path`; raises its refusal.

    When it does not answer it may have obeyed all the same: LeaseUnknownError,
    which cannot tell `doubt`.
    """
    with client.connect(path) as guard:
        try:
            answer = guard.execute(command, arguments, within_s)
        except client.NoAnswerError as silence:
            raise LeaseUnknownError("tell", doubt, silence.reason, "see status") from silence
    return answer if isinstance(answer, dict) else {}
