"""Which volumes lie below a folder, and whose they are, as far as headers say."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from medfm.formats import series
from medfm.formats.series_header import is_dicom, read_header
from medfm.formats.volume import SUFFIXES, find_series, is_candidate, split_address
from medfm.types import MedfmError


class Found(NamedTuple):
    """addresses: what ``read_volume`` takes. failed: (path, reason). others: files that are no volume, by suffix or kind."""

    addresses: list[str]
    failed: list[tuple[str, str]]
    others: Counter[str]


def find_volumes(folder: Path) -> Found:
    """Every volume file below ``folder`` and every DICOM series, hidden files left out. A MetaImage's or NRRD's raw data
    stand for themselves under ``others``."""
    found = Found([], [], Counter())
    slices = False
    for parent, folders, files in os.walk(folder, onerror=lambda e: _locked(found, e)):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for path in (Path(parent, name) for name in sorted(files) if not name.startswith(".")):
            try:
                if is_candidate(path):
                    if path.suffix.lower() == ".zip":
                        found.addresses.extend(r.address for r in find_series(path))
                    else:
                        found.addresses.append(str(path))
                elif is_dicom(path):
                    slices = True
                else:
                    found.others[path.suffix.lower() or "no suffix"] += 1
            except MedfmError as error:
                found.failed.append((str(path), str(error).removeprefix(f"{path}: ")))
            except OSError as error:
                found.failed.append(
                    (str(path), f"cannot be opened ({error.strerror}); change its permissions.")
                )
    if slices:
        reports = find_series(folder)
        found.addresses.extend(r.address for r in reports)
        dropped = {(d.uid, d.name): d.reason for r in reports for d in r.dropped}
        found.others.update(Counter(dropped.values()))
    if not found.addresses and not found.failed:
        seen = ", ".join(f"{n} {kind}" for kind, n in found.others.most_common(5)) or "no file"
        raise MedfmError(
            f"{folder}: no volume below this folder (it holds {seen}). Volumes are {' '.join(sorted(SUFFIXES))} files and "
            "DICOM series."
        )
    return found


def _locked(found: Found, error: OSError) -> None:
    found.failed.append(
        (str(error.filename), f"cannot be opened ({error.strerror}); change its permissions.")
    )


def stated_patient(address: str | Path) -> str | None:
    """The PatientID of a DICOM series; None for formats that have no place for one, and where it is blank."""
    path, part = split_address(address)
    try:
        if not (path.is_dir() or path.suffix.lower() == ".zip" or is_dicom(path)):
            return None
        with series._tree(path) as root:
            first = series._chosen(path, root, part).stack.slices[0]
            return str(read_header(first.path, whole=True).get("PatientID", "") or "").strip() or None
    except (MedfmError, OSError):
        return None  # ingest reads it again and reports it with its reason
