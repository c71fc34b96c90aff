"""How many CPU threads a step really profits from.

Small networks gain little from a second thread, and threads that spin at a barrier starve each other as soon as another
program wants a core (measured on two cores, width 64: one thread 213 samples/s on a quiet machine and 196 beside a busy
program; two threads 258 and 9). So more than one thread must earn its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

GAIN = 1.3


def settle_threads(asked: int | None, step: Callable[[], object]) -> int:
    """Set and return torch's CPU threads: ``asked``, or all of them where ``step`` runs 1.3 times faster than with one.

    On a machine with a GPU, and where torch has one thread anyway, nothing is measured.
    """
    everything = torch.get_num_threads()
    if asked is None and everything > 1 and not torch.cuda.is_available():
        alone = _seconds(step, 1)
        asked = everything if alone > GAIN * _seconds(step, everything) else 1
    if asked is not None:
        torch.set_num_threads(asked)
    return torch.get_num_threads()


def _seconds(step: Callable[[], object], threads: int) -> float:
    """Best of three after one to warm up."""
    torch.set_num_threads(threads)
    timings = []
    for _ in range(4):
        began = time.perf_counter()
        step()
        timings.append(time.perf_counter() - began)
    return min(timings[1:])
