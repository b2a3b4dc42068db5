"""Does the README say what the code does?"""

from __future__ import annotations

import re

from supervisor import config, exitcodes
from supervisor.spec import Containment, OnLockFailure
from tests.support.sources import files, read

README = read("README.md")


def _codes() -> dict[str, int]:
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", README, re.MULTILINE)
    return {name: int(code) for code, name in rows}


def test_the_table_of_exit_codes_has_every_reserved_code() -> None:
    reserved = {
        name: value
        for name, value in vars(exitcodes).items()
        if name.isupper() and name not in {"OK", "NO_SUCH_GUEST", "SIGNAL_BASE"}
    }
    assert _codes() == reserved


def test_every_decision_that_the_code_cites_is_there() -> None:
    cited = {
        number
        for path in files("supervisor", "lockplugins")
        for number in re.findall(r"\bD(\d+)\b", read(path))
    }
    told = set(re.findall(r"^\*\*D(\d+) ", README, re.MULTILINE))
    assert cited
    assert cited <= told


def test_the_words_of_the_configuration_are_the_code_s() -> None:
    text = README.split("## Configuration")[1].split("## ")[0]
    keys = set(re.findall(r"^(\w+) = ", text, re.MULTILINE))
    assert keys >= {"plugin", "containment", "on_lockfailure", "stop_timeout", "runtime_dir"}
    for word in (*Containment.ALL, *OnLockFailure.ALL, config.DEFAULT_FILE, config.FILE_VARIABLE):
        assert word in text


def test_events_of_the_control_pipe_are_named() -> None:
    code = "".join(read(path) for path in files("supervisor/guard"))
    told = {"RESOURCE_ACQUIRED", "RESOURCE_RELEASED", "LEASE_LOST", "GUEST_EXITED"}
    told |= {f"MIGRATION_{how}" for how in ("PREPARED", "COMPLETED", "CANCELLED")}
    for event in told:
        assert event in README
        assert f'"{event}"' in code
