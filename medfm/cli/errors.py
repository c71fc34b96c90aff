"""What a person sees when something goes wrong: one sentence with the remedy, and an exit status.

0 done, 1 a failed run, 2 a wrong call or configuration, 130 Ctrl-C, 141 the reader of a pipe has gone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from medfm.types import ConfigError, MedfmError

RESUMABLE = ("pretrain", "finetune")


class Answer(NamedTuple):
    status: int
    message: str


def explain(error: BaseException, command: str = "") -> Answer:
    """Exit status and sentence for whatever ended a command."""
    chain, causes = list(_chain(error, context=True)), list(_chain(error, context=False))
    if any(isinstance(e, KeyboardInterrupt) for e in chain):
        return Answer(130, _interrupted(command))
    if any(isinstance(e, BrokenPipeError) for e in chain):
        return Answer(141, "")
    for inner in causes:
        if isinstance(inner, ConfigError):
            return Answer(2, str(inner))
        if isinstance(inner, MedfmError):
            return Answer(1, str(inner))
    for inner in chain:
        if message := _machine(inner):
            return Answer(1, message)
    if isinstance(error, SystemExit):
        return Answer(error.code if isinstance(error.code, int) else 1, "")
    if isinstance(error, OSError) and error.filename:
        return Answer(1, f"{error.filename}: {error.strerror or type(error).__name__}.")
    text = " ".join(str(error).split())
    shown = text if len(text) <= 300 else f"{text[:300]}..."
    again = f"medfm --debug {command}".strip()
    return Answer(
        1, f"unexpected {type(error).__name__}: {shown} Run again with `{again} ...` for the traceback."
    )


def _locked(path: Path) -> bool:
    """A file that is there, or lies behind a folder that may not be entered, and may not be read."""
    there = os.access(path, os.F_OK) or not os.access(path.parent, os.X_OK)
    return there and not os.access(path, os.R_OK)


def _chain(error: BaseException, context: bool) -> Iterator[BaseException]:
    """The error and what it was raised from (with ``context``, also what was being handled then)."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (current.__context__ if context else None)


def _interrupted(command: str) -> str:
    if command in RESUMABLE:
        return "stopped by Ctrl-C. What was saved is kept: the same command with --resume goes on from there."
    return "stopped by Ctrl-C."


def _machine(error: BaseException) -> str | None:
    """The ways a machine gives up: a full disk, a folder that cannot be written, memory, a missing extra."""
    text = str(error)
    named = getattr(error, "filename", None)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        return (
            f"the disk is full{f' ({named})' if named else ''}. Free some space, or choose another place: "
            "--output DIR for the run, MEDFM_HOME for cache and hub; `medfm doctor` shows what lies where."
        )
    if getattr(error, "errno", None) in (errno.EACCES, errno.EROFS, errno.EPERM):
        reason = getattr(error, "strerror", None) or "no permission"
        if named and _locked(Path(named)):
            return f"{named}: {reason}. It may not be read by this user; change its permissions."
        return f"{named or 'a file'}: {reason}. Choose a place that you may write to: --output DIR."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "out of memory. Halve trainer.batch_size and double trainer.accumulate, or use a smaller preset."
        )
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("medfm"):
        return f"the Python package {error.name!r} is missing. `medfm doctor` shows how to get it."
    return None
