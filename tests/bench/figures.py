"""What do the samples say? Rounds in shuffled order, medians, ratios within one round."""

from __future__ import annotations

import gc
import random
import statistics
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Sample = TypeVar("Sample")
_SEED = 2


def rounds(rows: Mapping[str, Callable[[], Sample]], count: int) -> dict[str, list[Sample]]:
    """Take `count` samples of every row, a round at a time, each in an order of its own.

    One round more, the first, is thrown away: it warms caches.
    """
    order = random.Random(_SEED)
    samples: dict[str, list[Sample]] = {name: [] for name in rows}
    names = list(rows)
    gc.collect()
    gc.disable()
    try:
        for number in range(count + 1):
            order.shuffle(names)
            for name in names:
                sample = rows[name]()
                if number:
                    samples[name].append(sample)
    finally:
        gc.enable()
    return samples


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` of all do not exceed."""
    ordered = sorted(values)
    index = -(-len(ordered) * percent // 100) - 1
    return ordered[max(0, int(index))]


def ratios(values: Sequence[float], unit: Sequence[float]) -> list[float]:
    """Return what each round's value is to the same round's unit."""
    return [value / one for value, one in zip(values, unit, strict=True)]


def differences(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return how much more each round's value is than the same round's base."""
    return [value - one for value, one in zip(values, base, strict=True)]
