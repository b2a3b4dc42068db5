"""Which exit code says what? The codes of `docs/` and `README.md` are tested against these."""

from lockplugins import contract

OK = 0
NO_SUCH_GUEST = 1
USAGE = contract.ConfigError.exit_code
HELD_ELSEWHERE = contract.LeaseHeldError.exit_code
FAILED = contract.LockError.exit_code
LEASE_LOST = contract.LeaseLostError.exit_code
OUR_FAULT = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127
SIGNAL_BASE = 128
