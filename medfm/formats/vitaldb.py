"""Vital Recorder files (``.vital``): the waveforms of VitalDB, decoded from the open format, wave tracks only.

Gzip around a header (``VITA``, version, length of the rest) and packets of type (1 byte) and length (4): type 9 names a
device, 0 a track, 1 holds a record of one. Layout: vitaldb.net, Open Vital Data Format; little endian. Names are
``device/track`` there; the track's name is the channel's. Blocks lie at their own time, so what is between them is NaN.
"""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medfm.formats.base import build, check_size, existing_file, reading
from medfm.formats.rates import common_rate
from medfm.types import Finding, ReadError, Signal

DTYPES = {1: "<f4", 2: "<f8", 3: "<i1", 4: "<u1", 5: "<i2", 6: "<u2", 7: "<i4", 8: "<u4"}
WAVE = 1
LARGEST = 1 << 28  # bytes of one packet: more is a damaged length
_PULSE = re.compile(r"pleth|ppg|bvp", re.I)
REMEDY = "Copy it or download it from VitalDB again."


class _Track(NamedTuple):
    name: str
    unit: str
    dtype: str
    fs: float
    gain: float
    offset: float


def read(path: str | Path) -> Signal:
    """The wave tracks at the rate of the pulse wave (without one, of the ECG); the others are named in a finding.

    Raises:
        ReadError: no wave track, a truncated or damaged file.
    """
    path = existing_file(path)
    with reading(path, "a Vital Recorder file", REMEDY):
        tracks: dict[int, _Track] = {}
        blocks: dict[int, list[tuple[float, np.ndarray]]] = {}
        for kind, body in _packets(path):
            if kind == 0:
                number, track = _track(body)
                if track:
                    tracks[number] = track
            elif kind == 1:
                length, moment, number = struct.unpack_from("<HdH", body)
                if number in tracks:
                    (count,) = struct.unpack_from("<I", body, 2 + length)
                    values = np.frombuffer(body, tracks[number].dtype, count, 6 + length)
                    blocks.setdefault(number, []).append((moment, values))
        kept = [n for n in tracks if n in blocks]
        if not kept:
            raise ReadError(
                f"{path}: holds no waveform, only numbers; download the case with its wave tracks."
            )
        chosen, findings = _one_rate([tracks[n] for n in kept])
        return _assembled(path, [(tracks[kept[i]], blocks[kept[i]]) for i in chosen], findings)


def _packets(path: Path) -> Iterator[tuple[int, bytes]]:
    with gzip.open(path, "rb") as file:
        head = file.read(10)
        if head[:4] != b"VITA":
            raise ReadError(f"{path}: does not begin as a Vital Recorder file does. {REMEDY}")
        file.read(struct.unpack_from("<H", head, 8)[0])
        while len(head := file.read(5)) == 5:
            kind, size = struct.unpack("<bI", head)
            if size > LARGEST:
                raise ReadError(f"{path}: a packet of it promises {size:,} bytes: it is damaged. {REMEDY}")
            body = file.read(size)
            if len(body) < size:
                raise ReadError(f"{path}: ends in the middle of a packet: it was cut short. {REMEDY}")
            yield kind, body


def _track(body: bytes) -> tuple[int, _Track | None]:
    """Number and description of a track, None for one of numbers or words."""
    number, kind, form = struct.unpack_from("<HBB", body)
    name, at = _text(body, 4)
    if kind != WAVE or form not in DTYPES:
        return number, None
    unit, at = _text(body, at)
    fs, gain, offset = struct.unpack_from("<fdd", body, at + 12)  # after two display limits and a colour
    if form in (1, 2):  # floating-point samples are in their unit
        gain, offset = 1.0, 0.0
    return number, _Track(name, unit, DTYPES[form], fs, gain, offset)


def _text(body: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", body, at)
    return body[at + 4 : at + 4 + length].decode("utf-8", "replace"), at + 4 + length


def _one_rate(tracks: list[_Track]) -> tuple[list[int], list[Finding]]:
    pulse = next((t.fs for t in tracks if _PULSE.search(t.name)), None)
    if pulse is None:
        return common_rate([t.name for t in tracks], [t.fs for t in tracks])
    left = [f"{t.name} ({t.fs:g} Hz)" for t in tracks if abs(t.fs - pulse) > 1e-3]
    text = f"waves at the pulse's {pulse:g} Hz were read, not {', '.join(left)}."
    chosen = [i for i, t in enumerate(tracks) if abs(t.fs - pulse) <= 1e-3]
    return chosen, [Finding("mixed-sampling-rates", text, "info")] if left else []


def _assembled(path: Path, parts: list[tuple[_Track, list[Any]]], findings: list[Finding]) -> Signal:
    fs = float(parts[0][0].fs)
    if not fs > 0:
        raise ReadError(f"{path}: states no sampling rate of {parts[0][0].name}. {REMEDY}")
    first = min(moment for _, blocks in parts for moment, _ in blocks)
    last = max(moment + len(values) / fs for _, blocks in parts for moment, values in blocks)
    check_size(path, (last - first) * fs * len(parts))
    x = np.full((len(parts), round((last - first) * fs)), np.nan, np.float32)
    for row, (track, blocks) in zip(x, parts):
        for moment, values in blocks:
            at = round((moment - first) * fs)
            held = row[at : at + len(values)]
            held[:] = values[: len(held)] * track.gain + track.offset
    return build(
        path, "vital", x, fs, [t.name for t, _ in parts], [t.unit for t, _ in parts], findings=findings
    )
