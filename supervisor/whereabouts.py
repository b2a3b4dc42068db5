"""Where is a guest's runtime directory, and who was there when it was last looked at?

A guard removes its directory a moment before it exits, and with it goes the
last lease: who only looks at the directory would call the leases free too soon.
"""

from __future__ import annotations

from supervisor import finding, records


class Whereabouts:
    """One guest's directory, and the last record of it that was read."""

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._known: dict[str, object] = {}
        if path:
            self.look()

    def __bool__(self) -> bool:
        return bool(self._path)

    def look(self) -> str:
        """Return the directory's path, and remember who is there now."""
        self._known = records.read_guest(self._path) or self._known
        return self._path

    def guest(self) -> finding.Guest | None:
        """Return the guest, one that may be ending included; None when nobody was seen."""
        guest = finding.look(self.look())
        if guest is None and self._known:
            guest = finding.Guest(self._path, guarded=False)
            guest.record = self._known
        return guest
