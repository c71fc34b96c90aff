"""Timers that neighbours on the machine cannot fool: CPU seconds, turn by turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """Seconds of one call: of this process on any core, and by the clock on the wall."""

    cpu: float
    wall: float


def interleave(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Cost]]:
    """Cost of each call in each round, after one round to warm up.

    They take turns, in an order that is swapped every other round, so that a noisy neighbour or a warming
    clock favours none.
    """
    for call in calls.values():
        call()
    costs: dict[str, list[Cost]] = {name: [] for name in calls}
    for index in range(rounds):
        for name in list(calls)[:: 1 if index % 2 == 0 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            calls[name]()
            costs[name].append(Cost(time.process_time() - cpu, time.perf_counter() - wall))
    return costs
