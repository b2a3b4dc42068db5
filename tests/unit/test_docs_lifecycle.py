"""Is docs/lifecycle.md what the tests run, and is every call of the seed on it?"""

from __future__ import annotations

import re

from tests.support.lifecycle import COMMAND, PATH, SEQUENCES, page
from tests.support.sources import read

SEEDS = {
    "PluginLoad", "PluginUnload", "New", "SetParameter", "RegisterResource", "AcquireObject",
    "Shutdown", "Free", "GetChild", "AcquireResource", "ReleaseResource", "PrepareMigrate",
    "GetSupervisorPath", "GetSupervisorArgs", "CompleteMigrateIn",
}  # fmt: skip
ROW = re.compile(r"\| (.*) \| (.*) \|")


def test_the_page_is_what_the_tests_run() -> None:
    assert read(PATH) == page(), f"run: {COMMAND}"


def test_every_call_of_the_seed_is_on_the_page_and_has_ours_beside_it() -> None:
    rows = [match.groups() for line in page().splitlines() if (match := ROW.fullmatch(line))]
    called = {
        name for seeds, ours in rows if ours for name in re.findall(r"virLockManager(\w+)", seeds)
    }
    assert called == SEEDS
    assert [seeds for seeds, ours in rows if "virLockManager" in seeds and not ours] == []
    assert page().count("\n## ") == len(SEQUENCES)
