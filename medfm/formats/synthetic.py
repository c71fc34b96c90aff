"""Which files a model made: ``medfm reconstruct`` marks a synthesised sequence in its name, its header and beside it."""

from __future__ import annotations

import json
from pathlib import Path

MARK = "SYNTHETIC"
_NIFTI = {348: (148, 80), 540: (240, 80)}  # size of the header: where its free text begins, and its length


def sidecar(path: str | Path) -> Path:
    """The JSON file beside a volume: ``a.nii.gz`` has ``a.json``, as in BIDS."""
    path = Path(path)
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return path.with_name(f"{Path(name).stem}.json")


def is_synthetic(path: str | Path) -> bool:
    """Was this volume made by a model and not measured? True where its name contains ``SYNTHETIC``, the description in its
    NIfTI header begins so, or its JSON sidecar says ``"Synthetic": true``. A file that cannot be read is not called
    synthetic: its reader says what is wrong with it."""
    path = Path(path)
    if MARK in path.name:
        return True
    try:
        return path.is_file() and (_by_header(path) or _by_sidecar(sidecar(path)))
    except (OSError, EOFError, ValueError):
        return False


def _by_header(path: Path) -> bool:
    from medfm.formats.nifti_volume import opened

    with opened(path) as file:
        head = file.read(540)
    for order in ("little", "big"):
        first, length = _NIFTI.get(int.from_bytes(head[:4], order), (0, 0))  # type: ignore[arg-type]
        if head[first : first + length].startswith(MARK.encode()):
            return True
    return False


def _by_sidecar(path: Path) -> bool:
    if not path.is_file():
        return False
    said = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(said, dict) and said.get("Synthetic") is True
