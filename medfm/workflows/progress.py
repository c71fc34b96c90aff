"""Progress for people: a rich bar on a terminal, one plain line every few seconds elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PLAIN_SECONDS = 5.0


class Progress:
    """One task: ``update(done, **numbers)``; numbers are shown with the speed and the time left."""

    def __init__(self, label: str, total: int, unit: str = "it", per: float = 1.0, start: int = 0) -> None:
        self.label, self.total, self.unit, self.per, self.start = label, total, unit, per, start
        self._began = self._printed = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.start, numbers="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, **numbers: float) -> None:
        now = time.monotonic()
        speed = (done - self.start) * self.per / max(now - self._began, 1e-9)
        text = " ".join(f"{k} {v:.4g}" for k, v in numbers.items()) + f" {speed:,.0f} {self.unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, numbers=text.strip())
        elif now - self._printed >= PLAIN_SECONDS or done >= self.total:
            self._printed = now
            left = (self.total - done) * self.per / speed if speed else 0.0
            print(
                f"{self.label} {done}/{self.total} {text.strip()}, {duration(left)} left",
                file=sys.stderr,
                flush=True,
            )


class Silent(Progress):
    """The same calls, nothing shown."""

    def __enter__(self) -> Silent:
        return self

    def update(self, done: int, **numbers: float) -> None:
        return None


@contextmanager
def progress(
    show: bool, label: str, total: int, unit: str = "it", per: float = 1.0, start: int = 0
) -> Iterator[Progress]:
    with (Progress if show else Silent)(label, total, unit, per, start) as bar:
        yield bar


def duration(seconds: float) -> str:
    """75 -> '1 min 15 s'."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
