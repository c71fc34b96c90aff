"""WFDB records (PhysioNet): every sample format, FLAC, MATLAB data files, fixed and variable multi-segment
layout.

Decoding is the wfdb library's; what stands here are the checks before it (files there, long enough, not
absurd), the joining of segments, and a writer quick enough for simulated corpora. Format:
physionet.org/physiotools/wag/header-5.htm
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medfm.formats.base import build, check_size, checked_rate, existing_file, reading, window
from medfm.formats.rates import common_rate
from medfm.formats.wfdb_header import BYTES, comment_facts, header_path, header_text, without_dates
from medfm.types import Finding, ReadError, Signal

REMEDY = "Copy or download the header and its data files again."
ODD = "the header's first line is irregular (name, date or time); those fields were ignored."


class _Block(NamedTuple):
    """Channels of one stretch: arrays may differ in length when the channels' rates differ."""

    names: list[str]
    units: list[str]
    rates: list[float]
    data: list[np.ndarray]


def read(path: str | Path, start: float = 0.0, stop: float | None = None) -> Signal:
    """One WFDB record, addressed with or without ``.hea`` or by its data file; only ``start``..``stop`` s if
    given.

    Where channels have several samples a frame, those at the ECG channels' common rate are read in full and
    the others are named in a finding. Samples that the file marks invalid, and null segments, are NaN.

    Raises:
        ReadError: header or data missing, truncated, of zero length or inconsistent.
    """
    header = existing_file(header_path(path))
    with reading(header, "WFDB", REMEDY):
        fields, repaired = _header(header)
        findings = [Finding("odd-header", ODD, "info")] if repaired else []
        fs = checked_rate(
            header, fields.fs if fields.fs is not None else 250.0
        )  # 250 Hz is the format's default
        if getattr(fields, "n_seg", None):
            block, more = _read_segments(header, fields, fs, start, stop)
        else:
            block, more = _read_single(header, fields, fs, start, stop, repaired)
        x = np.stack([d.astype(np.float32) for d in block.data])
        meta = comment_facts(fields.comments)
        return build(
            header,
            "wfdb",
            x,
            block.rates[0],
            block.names,
            block.units,
            meta=meta,
            findings=[*findings, *more],
        )


def _header(header: Path) -> tuple[Any, str | None]:
    """The parsed header (wfdb.Record or MultiRecord), and its repaired text where wfdb refused it."""
    import wfdb

    text = header_text(header)
    try:
        return wfdb.rdheader(str(header.with_suffix(""))), None
    except Exception as error:
        repaired = without_dates(text)
        if repaired is None:
            raise ReadError(f"{header}: not a WFDB header ({error}). {REMEDY}") from error
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "record.hea").write_text(repaired, encoding="utf-8")
            fields = wfdb.rdheader(str(Path(folder) / "record"))
        return fields, repaired


def _read_single(
    header: Path, fields: Any, fs: float, start: float, stop: float | None, repaired: str | None
) -> tuple[_Block, list[Finding]]:
    length = _check_files(header, fields)
    first, last = window(header, length, fs, start, stop)
    check_size(header, (last - first) * sum(fields.samps_per_frame))
    names = [n or f"col {i}" for i, n in enumerate(fields.sig_name)]
    rates = [fs * n for n in fields.samps_per_frame]
    keep, findings = common_rate(names, rates)
    data = _decode(header, fields, first, last, keep, repaired)
    units = [fields.units[i] or "" for i in keep]
    return _Block([names[i] for i in keep], units, [rates[i] for i in keep], data), findings


def _decode(
    header: Path, fields: Any, first: int, last: int, keep: list[int], repaired: str | None
) -> list[np.ndarray]:
    """Physical values of frames ``first``..``last`` of the channels ``keep``, one array a channel."""
    import wfdb

    plain = len(set(fields.file_name)) == 1 and not any(fields.skew)
    if plain and {*fields.fmt, *fields.samps_per_frame} == {"16", 1}:
        return _decode_16(header, fields, first, last)
    options: dict[str, Any] = {"channels": keep, "smooth_frames": False}
    if (
        fields.sig_len is not None
    ):  # without a stated length wfdb counts the samples, but only of whole records
        options |= {"sampfrom": first, "sampto": last}
    if repaired is None:
        data = wfdb.rdrecord(str(header.with_suffix("")), **options).e_p_signal
    else:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "record.hea").write_text(repaired, encoding="utf-8")
            for name in set(fields.file_name):
                _link(header.parent / name, Path(folder) / name)
            data = wfdb.rdrecord(str(Path(folder) / "record"), **options).e_p_signal
    if fields.sig_len is None:
        data = [d[first * n : last * n] for d, n in zip(data, (fields.samps_per_frame[i] for i in keep))]
    return data


def _decode_16(header: Path, fields: Any, first: int, last: int) -> list[np.ndarray]:
    """The commonest case, one file of int16: corpora read twice as fast without a second header pass."""
    channels = len(fields.fmt)
    offset = (fields.byte_offset[0] or 0) + 2 * channels * first
    stored = np.fromfile(header.parent / fields.file_name[0], "<i2", (last - first) * channels, offset=offset)
    stored = stored.reshape(-1, channels).T
    gain, baseline = np.array(fields.adc_gain, dtype=np.float64), np.array(fields.baseline, dtype=np.float64)
    x = (stored - baseline[:, None]) / gain[:, None]
    x[stored == -32768] = np.nan
    return list(x)


def _link(file: Path, link: Path) -> None:
    try:
        link.symlink_to(file.resolve())
    except OSError:  # Windows asks for a privilege to make links
        shutil.copyfile(file, link)


def _check_files(header: Path, fields: Any) -> int:
    """Frames in the record, after every data file was found and found long enough."""
    if not fields.n_sig or not getattr(fields, "file_name", None):
        raise ReadError(f"{header}: describes no signals; it is an annotation-only or damaged header.")
    if len(fields.file_name) != fields.n_sig:
        raise ReadError(
            f"{header}: names {fields.n_sig} signals and describes {len(fields.file_name)}. {REMEDY}"
        )
    if set(fields.file_name) == {"~"} or (fields.sig_len == 0 and header.stem.endswith("_layout")):
        raise ReadError(
            f"{header}: is a layout header and holds no samples; give the multi-segment record's own header."
        )
    if fields.sig_len == 0:
        raise ReadError(f"{header}: promises a length of 0 samples. {REMEDY}")
    groups: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(fields.file_name):
        groups[name].append(i)
    lengths = [_frames(header, fields, name, members) for name, members in groups.items()]
    return int(fields.sig_len if fields.sig_len is not None else min(lengths))


def _frames(header: Path, fields: Any, name: str, members: list[int]) -> int:
    """Frames that one data file holds; fewer than the header promises is an error."""
    if Path(name).name != name:
        raise ReadError(f"{header}: names a data file outside its folder ({name}); put it beside the header.")
    file = header.parent / name
    if not file.is_file():
        raise ReadError(f"{header}: its data file {name} is missing; put it beside the header.")
    per_frame = sum(fields.samps_per_frame[i] for i in members)
    format = str(fields.fmt[members[0]])
    if not per_frame:
        raise ReadError(f"{header}: a signal of {name} has no samples in a frame. {REMEDY}")
    if format in BYTES:
        size = file.stat().st_size - (fields.byte_offset[members[0]] or 0)
        held = int((size + 0.01) // (BYTES[format] * per_frame))
        slack = 4  # the last group of a packed format may be cut
    elif format in ("508", "516", "524"):
        import soundfile

        held = soundfile.info(str(file)).frames // fields.samps_per_frame[members[0]]
        slack = 0
    else:
        raise ReadError(f"{header}: {name} is in signal format {format}, which is not a WFDB signal format.")
    promised = fields.sig_len
    if promised is not None and held + slack < promised:
        fs = fields.fs or 250.0
        raise ReadError(
            f"{header}: {name} is truncated, it holds {held / fs:.2f} s of the {promised / fs:.2f} s that "
            "the header promises; copy or download it again."
        )
    if held < 1:
        raise ReadError(f"{header}: {name} holds no samples; copy or download it again.")
    return held


def _read_segments(
    header: Path, fields: Any, fs: float, start: float, stop: float | None
) -> tuple[_Block, list[Finding]]:
    """Join the segments that a window needs; a channel that a segment lacks is NaN there."""
    seg_lengths = [int(n or 0) for n in fields.seg_len]
    total = sum(seg_lengths)
    first, last = window(header, total, fs, start, stop)
    parts: dict[str, Any] = {}
    repairs: dict[str, str] = {}
    for name in fields.seg_name:
        if name == "~" or name in parts:
            continue
        part = header.parent / f"{name}.hea"
        if not part.is_file():
            raise ReadError(f"{header}: its segment {name} is missing; copy the whole record.")
        parts[name], odd = _header(part)
        if odd:
            repairs[name] = odd
        if getattr(parts[name], "n_seg", None):
            raise ReadError(
                f"{header}: its segment {name} is itself multi-segment, which WFDB does not allow."
            )
    shape = next((p for p in parts.values() if getattr(p, "sig_name", None)), None)
    if shape is None:
        raise ReadError(f"{header}: none of its segments describes a signal; copy the whole record.")
    rates = [fs * n for n in shape.samps_per_frame]
    keep, findings = common_rate(shape.sig_name, rates)
    per_frame = shape.samps_per_frame[keep[0]]
    keys = _keys([shape.sig_name[i] for i in keep])
    check_size(header, (last - first) * per_frame * len(keep))
    units = [shape.units[i] or "" for i in keep]
    x = np.full((len(keep), (last - first) * per_frame), np.nan, dtype=np.float32)
    at = 0
    for name, length in zip(fields.seg_name, seg_lengths):
        a, b = max(first, at), min(last, at + length)
        if a < b and name != "~":
            part = parts[name]
            file = header.parent / f"{name}.hea"
            block, _ = _read_single(file, part, fs, (a - at) / fs, (b - at) / fs, repairs.get(name))
            for key, unit, rate, data in zip(_keys(block.names), block.units, block.rates, block.data):
                if key in keys and round(rate / fs) == per_frame:
                    if unit != units[keys.index(key)]:
                        raise ReadError(
                            f"{header}: {key[0]} is in {unit} in segment {name}, elsewhere in other units."
                        )
                    x[keys.index(key), (a - first) * per_frame :][: len(data)] = data
        at += length
    return _Block([k[0] for k in keys], units, [rates[keep[0]]] * len(keep), list(x)), findings


def _keys(names: Sequence[str]) -> list[tuple[str, int]]:
    """(name, how many of that name came before): two channels of one name stay two."""
    return [(n, list(names[:i]).count(n)) for i, n in enumerate(names)]


def write(
    path: str | Path, x_mV: np.ndarray, fs: float, channels: Sequence[str], comments: Sequence[str] = ()
) -> Path:
    """Write ``x_mV [C, T]`` as a format 16 record (1000 steps a mV, fewer where the amplitude asks); return
    the .hea.

    NaN becomes WFDB's invalid sample, -32768. wfdb.wrsamp does the same some twenty times slower.
    """
    header = Path(path) if Path(path).suffix.lower() == ".hea" else Path(f"{path}.hea")
    name = header.stem
    if not re.fullmatch(r"[-\w]+", name):
        raise ReadError(f"{header}: a WFDB record name has letters, digits, _ and - only.")
    x = np.asarray(x_mV, dtype=np.float32)
    assert x.ndim == 2 and len(channels) == x.shape[0]
    gap = ~np.isfinite(x)
    peak = float(np.max(np.abs(x), where=~gap, initial=0.0))
    gain = 1000.0 if peak * 1000 < 32767 else np.floor(32766 / peak * 1e6) / 1e6
    with np.errstate(invalid="ignore"):
        steps = np.rint(x * gain)
    steps[gap] = -32768
    digital = np.ascontiguousarray(steps.T.astype("<i2"))
    checksums = digital.sum(axis=0, dtype=np.int64) % 65536
    lines = [f"{name} {x.shape[0]} {fs:.12g} {x.shape[1]}"]
    for lead, value, checksum in zip(channels, digital[0] if len(digital) else np.zeros(len(x)), checksums):
        lines.append(f"{name}.dat 16 {gain:.12g}(0)/mV 16 0 {int(value)} {int(checksum)} 0 {lead}")
    lines += [f"# {c}" for c in comments]
    digital.tofile(header.with_suffix(".dat"))
    header.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return header
