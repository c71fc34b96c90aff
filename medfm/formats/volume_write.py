"""Volumes written as NIfTI-1: predictions, phantoms, test data. The same values give the same bytes."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np

from medfm.types import ConfigError

_DTYPES = ("uint8", "int16", "float32")


def write_nifti(path: str | Path, x: np.ndarray, affine: np.ndarray, *, description: str = "") -> Path:
    """Write ``x [X, Y, Z]`` and its affine (voxel index to mm, RAS+) as ``.nii`` or ``.nii.gz``; return the path.

    sform and qform are both set, code 1 (scanner), in mm; no scaling. The file appears under its name only when it is
    whole. bool is written as uint8.

    Raises:
        ConfigError: a path that ends otherwise, or values that are not bool, uint8, int16 or float32.
    """
    from nibabel import Nifti1Image

    path = Path(path)
    packed = path.name.lower().endswith(".nii.gz")
    if not packed and path.suffix.lower() != ".nii":
        raise ConfigError(f"{path}: a NIfTI file is named .nii.gz or .nii; rename it.")
    values = x.astype(np.uint8) if x.dtype == np.bool_ else x
    if values.ndim != 3 or values.dtype.name not in _DTYPES:
        raise ConfigError(
            f"{path}: {values.ndim}-D {values.dtype} is not written; give 3-D values of {', '.join(_DTYPES)}."
        )
    image = Nifti1Image(values, np.asarray(affine, np.float64))
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode("latin-1", "replace")[:79]
    raw = image.to_bytes()
    # gzip's own time and name would make every file different
    content = gzip.compress(raw, compresslevel=6, mtime=0) if packed else raw
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
