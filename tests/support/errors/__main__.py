"""What belongs into docs/errors.md? Provokes every error and prints it."""

from __future__ import annotations

import sys

from tests.support.errors.document import document
from tests.support.errors.provoking import provoke_all

if __name__ == "__main__":
    sys.stdout.write(document(provoke_all()))
