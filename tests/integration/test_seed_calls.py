"""Is there every call of the seed, and does a test of its sequences make it?"""

from __future__ import annotations

import ast
import inspect

import pytest

import lockplugins
from supervisor import manager
from supervisor.manager import LockManager
from tests.support.sources import CHECKOUT, read

SEQUENCES = (
    "tests/integration/test_seed_guest.py",
    "tests/integration/test_seed_hotplug.py",
    "tests/integration/test_seed_migration.py",
)
# Every name that the seed's README writes, and ours.
CALLS = {
    "virLockManagerPluginLoad": "load",
    "virLockManagerPluginUnload": "unload",
    "virLockManagerNew": "LockManager",
    "virLockManagerSetParameter": "set_parameter",
    "virLockManagerRegisterResource": "register_resource",
    "virLockManagerAcquireObject": "acquire_object",
    "virLockManagerShutdown": "shutdown",
    "virLockManagerFree": "free",
    "virLockManagerGetChild": "get_child",
    "kill(supervisorpid)": "kill_supervisor",
    "virLockManagerAcquireResource": "acquire_resource",
    "virLockManagerReleaseResource": "release_resource",
    "virLockManagerPrepareMigrate": "prepare_migrate",
    "virLockManagerGetSupervisorPath": "get_supervisor_path",
    "virLockManagerGetSupervisorArgs": "get_supervisor_args",
    "virLockManagerCompleteMigrateIn": "complete_migrate_in",
}
WORDS = {
    "VIR_LOCK_MANAGER_OBJECT_DOMAIN": "ObjectType.DOMAIN",
    "VIR_LOCK_MANAGER_START_DOMAIN": "ObjectType.START_DOMAIN",
    "VIR_LOCK_MANAGER_RESOURCE_TYPE_DISK": "ResourceType.DISK",
    "VIR_LOCK_MANAGER_NEW_ATTACH": "NewFlags.ATTACH",
    "VIR_LOCK_MANAGER_NEW_MIGRATE": "NewFlags.MIGRATE",
    "VIR_LOCK_MANAGER_MIGRATE_CANCEL": "MigrateFlags.CANCEL",
}


@pytest.fixture(scope="module")
def tested() -> set[str]:
    """Return what the tests of the sequences call and mention."""
    found = set()
    for path in SEQUENCES:
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.Call):
                found.add(ast.unparse(node.func).rpartition(".")[2])
            elif isinstance(node, ast.Attribute):
                found.add(ast.unparse(node))
    return found


@pytest.mark.parametrize("seeds", [*CALLS, *WORDS])
def test_every_call_of_the_seed_is_made_by_a_test(seeds: str, tested: set[str]) -> None:
    ours = (CALLS | WORDS)[seeds]
    assert ours in tested
    if seeds in WORDS:
        kind, _, member = ours.partition(".")
        assert member in getattr(manager, kind).__members__
    elif ours in ("load", "LockManager"):
        assert callable(getattr(lockplugins if ours == "load" else manager, ours))
    elif ours != "unload":
        assert inspect.isfunction(getattr(LockManager, ours))


def test_the_documentation_has_every_call() -> None:
    page = read(f"{CHECKOUT}/docs/api.md")
    public = [name for name in vars(LockManager) if not name.startswith("_")]
    assert set(public) > {"acquire_object", "free"}
    assert [name for name in public if f"{name}(" not in page] == []
