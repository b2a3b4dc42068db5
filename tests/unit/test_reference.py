"""Is docs/reference.md what the code says, and is every call on it explained?"""

from __future__ import annotations

import re

from supervisor import domain_lock
from supervisor.manager import LockManager
from tests.support import reference
from tests.support.sources import read


def test_the_page_is_what_the_code_says() -> None:
    assert read(reference.PATH) == reference.page(), f"run: {reference.COMMAND}"


def test_every_call_is_on_the_page_and_explained() -> None:
    page = reference.page()
    headings = set(re.findall(r"^#+ (\w+)$", page, re.MULTILINE))
    calls = {name for name in vars(LockManager) if not name.startswith("_")}
    assert calls | {"load", "LockManager", "NewFlags", "process_start", "lease_detach"} <= headings
    assert domain_lock.process_pause.__name__ in headings
    assert "\nNone\n" not in page
    assert "'" not in "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)).replace("''", "")
