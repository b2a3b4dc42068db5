"""May two guests have one disk by etcd's rules? Every order of events, looked at by spin.

The models (tests/support/etcd_model) say what happens and what may go wrong. A
model that finds nothing proves little: each mistake that the rules avoid is
put in, and must be found.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.sources import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

MODELS = os.path.join(CHECKOUT, "tests", "support", "etcd_model")
LONGEST_S = 600
MISTAKES = {
    "takeover": (
        "PROOF_BY_KEEPALIVE", "PROOF_BY_COMPARE_ONLY", "HEAL_WITHOUT_READERS",
        "TAKER_READS_TWICE", "WATCH_FROM_OWN_SETTING", "ARMED_FROM_ANSWER", "WATCH_TOO_SHORT",
    ),
    "handover": (
        "NO_NONCE", "NO_READY", "PREPARED_AT_ANY_REVISION", "CANCELLED_BESIDE_DESTINATION",
        "RESUMED_AFTER_READ",
    ),
}  # fmt: skip


def look(model: str, directory: Path, mistake: str | None = None) -> tuple[int, int]:
    """Return how many errors spin finds, and how many states it has looked at."""
    seeded = [] if mistake is None else [f"-DMISTAKE_{mistake}"]
    spin = ["spin", "-a", *seeded, os.path.join(MODELS, f"{model}.pml")]
    compiler = ["gcc", "-O1", "-DSAFETY", "-DMEMLIM=4000", "-o", "pan", "pan.c"]
    for argv in (spin, compiler):
        subprocess.run(argv, cwd=directory, check=True, capture_output=True, timeout=LONGEST_S)
    looked = subprocess.run(
        ["./pan", "-m2000000", "-E"], cwd=directory, check=False, capture_output=True,
        text=True, timeout=LONGEST_S,
    ).stdout  # fmt: skip
    errors, states = (re.search(words, looked) for words in (r"errors: (\d+)", r"(\d+) states, s"))
    assert errors, looked
    assert states, looked
    assert "max search depth too small" not in looked
    assert "out of memory" not in looked
    return int(errors[1]), int(states[1])


@pytest.mark.parametrize("model", MISTAKES)
def test_no_order_of_events_gives_a_disk_to_two_guests(model: str, tmp_path: Path) -> None:
    errors, states = look(model, tmp_path)
    print(f"{model}: {states:,} states")
    assert errors == 0
    assert states > 1_000_000  # all of them, not the first few


@pytest.mark.parametrize(
    ("model", "mistake"),
    [(model, mistake) for model, mistakes in MISTAKES.items() for mistake in mistakes],
)
def test_each_mistake_that_the_rules_avoid_is_found(
    model: str, mistake: str, tmp_path: Path
) -> None:
    errors, _states = look(model, tmp_path, mistake)
    assert errors == 1


def test_every_mistake_of_a_model_is_tried() -> None:
    for model, mistakes in MISTAKES.items():
        with open(os.path.join(MODELS, f"{model}.pml"), encoding="ascii") as file:
            known = set(re.findall(r"MISTAKE_(\w+)", file.read()))
        assert known == set(mistakes)
