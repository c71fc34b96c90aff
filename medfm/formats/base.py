"""What every reader shares: the path check, the error boundary, the size limit, the window, the finished
Signal.

A reader is a function ``read(path, ...) -> Signal``. Whatever a broken file makes a third-party decoder raise
leaves the room as one :class:`~medfm.types.ReadError` sentence that names the file and the remedy.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medfm.types import Finding, MedfmError, ReadError, Signal

MAX_VALUES = 600_000_000
"""Largest record read whole (channels x samples): a 12-lead Holter day at 500 Hz is 518 million."""

FS_KEYS = (
    "fs",
    "sampling_rate",
    "sample_rate",
    "sampling_frequency",
    "samplingrate",
    "frequency",
    "sfreq",
    "freq",
)
CHANNEL_KEYS = ("channels", "leads", "lead_names", "sig_name", "channel_names", "labels")
UNIT_KEYS = ("units", "unit")


def existing_file(path: str | Path) -> Path:
    """The path of a non-empty regular file, or the sentence that says what is wrong with it."""
    path = Path(path)
    try:
        if path.is_dir():
            if not os.access(path, os.R_OK | os.X_OK):
                raise ReadError(f"{path} is a folder that this user may not open; change its permissions.")
            raise ReadError(f"{path} is a folder, not a record; scan it with `medfm data scan {path}`.")
        if not path.is_file():
            if re.match(r"\w+:/", str(path)):
                raise ReadError(f"{path}: records are read from disk only; download it first.")
            raise ReadError(
                f"{short(path)}: no such file; check the path (a table's are relative to the table)."
            )
        if path.stat().st_size == 0:
            raise ReadError(f"{path} is empty (0 bytes); copy or export it again.")
    except (OSError, ValueError) as error:  # a name too long, a NUL byte, a folder that may not be entered
        if isinstance(error, MedfmError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise ReadError(f"{short(path)}: cannot be opened ({reason}); check the path.") from error
    return path


def short(path: Path) -> str:
    """A path for a sentence: a very long one is cut in the middle."""
    text = str(path)
    return text if len(text) <= 400 else f"{text[:200]}...{text[-100:]}"


@contextmanager
def reading(path: Path, name: str, remedy: str = "Export or copy the file again.") -> Iterator[None]:
    """The error boundary of a reader: our own sentences pass, everything else becomes one."""
    try:
        with np.errstate(all="ignore"):
            yield
    except MedfmError:
        raise
    except MemoryError as error:
        raise ReadError(f"{path}: does not fit into memory; read a window of it (start, stop).") from error
    except PermissionError as error:
        raise ReadError(f"{path}: may not be read by this user; change its permissions.") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or "no reason given"
        raise ReadError(
            f"{path}: cannot be read as {name} ({type(error).__name__}: {reason}). {remedy}"
        ) from error


def check_size(path: Path, values: float) -> None:
    """Refuse before allocating: a broken header may promise any number of samples."""
    if not values <= MAX_VALUES:
        raise ReadError(
            f"{path}: promises {values:.3g} values, more than the {MAX_VALUES:.0e} that are read whole; "
            "if that is right, read a window of it (start, stop), otherwise the header is damaged."
        )


def checked_rate(path: Path, fs: Any) -> float:
    """A finite, positive sampling rate in Hz."""
    try:
        value = float(fs)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and 0 < value < 1e7):
        raise ReadError(
            f"{path}: the sampling rate {fs!r} is not a positive number of Hz; mend the file's header."
        )
    return value


def missing_rate(path: Path, where: str) -> ReadError:
    """The sentence for a file that states no sampling rate."""
    return ReadError(
        f"{path}: {where} states no sampling rate. Give it in a table's 'fs' column, as read(path, fs=500), "
        f'or in a sidecar file {path.with_suffix(".json").name} holding {{"fs": 500}}.'
    )


def window(path: Path, samples: int, fs: float, start: float, stop: float | None) -> tuple[int, int]:
    """Sample range of ``start``..``stop`` seconds, cut to the record."""
    first = max(0, round(start * fs))
    last = samples if stop is None else min(samples, round(stop * fs))
    if first >= last:
        asked = f"{start:g} s to {'its end' if stop is None else f'{stop:g} s'}"
        raise ReadError(f"{path}: holds {samples / fs:.3f} s; nothing lies in {asked}.")
    return first, last


def build(
    path: Path,
    format: str,
    x: np.ndarray,
    fs: Any,
    channels: Sequence[str],
    units: Sequence[str],
    *,
    record: str | None = None,
    patient: str | None = None,
    meta: dict[str, Any] | None = None,
    findings: Sequence[Finding] = (),
) -> Signal:
    """A checked Signal from ``x [C, T]``: at least one channel and one sample, infinite values become NaN."""
    fs = checked_rate(path, fs)
    if x.shape[0] == 0:
        raise ReadError(f"{path}: holds no signal; export it again with its waveforms.")
    if x.shape[1] == 0:
        raise ReadError(f"{path}: holds no samples; export it again with its waveforms.")
    check_size(path, x.size)
    with np.errstate(all="ignore"):
        x = np.ascontiguousarray(x, dtype=np.float32)
        if not np.isfinite(x.sum()):
            x = np.where(np.isfinite(x), x, np.float32(np.nan))
    return Signal(
        x=x,
        fs=fs,
        channels=tuple(str(c).strip() for c in channels),
        units=tuple(str(u).strip() for u in units),
        format=format,
        record=path.stem if record is None else record,
        patient=patient or None,
        meta=meta or {},
        findings=tuple(findings),
    )
