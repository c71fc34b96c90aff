"""A site of a few CT volumes with masks as NIfTI files, and a tiny backbone bundle for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medfm.backbones.conv3d import SegResNet3D
from medfm.formats.volume_write import write_nifti
from medfm.hub.bundle import save_bundle
from medfm.hub.card import Card
from medfm.modalities.ct import CT

SIZE, SPACING = (16, 16, 16), (4.0, 4.0, 4.0)


def make_backbone(folder: Path, seed: int = 0, decoder: bool = True) -> Path:
    modality = CT(size=SIZE, spacing=SPACING, windows=((-100.0, 300.0),), foreground="none")
    torch.manual_seed(seed)
    net = SegResNet3D(in_channels=1, input_size=SIZE, init_filters=16, blocks_down=(1, 1), decoder=decoder)
    card = Card(
        id="tiny-ct-sim",
        summary="Never trained: 0 seconds on simulated data, for tests.",
        modality="ct",
        architecture="SegResNet of width 16",
        simulated_only=True,
    )
    save_bundle(folder, net, modality.settings(), card)
    return folder


def volume(seed: int, shape: tuple[int, int, int] = (22, 20, 18)) -> tuple[np.ndarray, np.ndarray]:
    """HU int16 and labels: air, a body, a bright organ on the right (value 2) and a dimmer one on the left (value 5)."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape)
    x = np.full(shape, -1000.0)
    x[3:-3, 2:-2] = rng.normal(40, 10, x[3:-3, 2:-2].shape)
    y = np.zeros(shape, np.int16)
    for value, hu, centre in ((2, 290.0, (14, 10, 8)), (5, 150.0, (7, 9, 10))):
        at = np.array(centre) + rng.uniform(-1, 1, 3)
        here = ((grid - at[:, None, None, None]) ** 2).sum(0) < rng.uniform(2.6, 3.6) ** 2
        x[here], y[here] = rng.normal(hu, 10, int(here.sum())), value
    return x.astype(np.int16), y


def affine(spacing: tuple[float, float, float] = SPACING, flips: tuple[int, ...] = ()) -> np.ndarray:
    out = np.diag([*spacing, 1.0])
    for axis in flips:
        out[axis, axis] *= -1
    out[:3, 3] = (-40.0, 25.0, 7.0)
    return out


def make_site(folder: Path, patients: int = 4, **columns: Any) -> Path:
    """``table.csv``: path, patient_id, mask; every second volume has its first axis to the left."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for p in range(patients):
        x, y = volume(p)
        where = affine(flips=(0,) if p % 2 else ())
        if p % 2:
            x, y = x[::-1], y[::-1]
        write_nifti(folder / f"ct{p}.nii.gz", np.ascontiguousarray(x), where)
        write_nifti(folder / f"mask{p}.nii.gz", np.ascontiguousarray(y), where)
        rows.append({"path": f"ct{p}.nii.gz", "patient_id": f"p{p}", "mask": f"mask{p}.nii.gz"})
    pd.DataFrame(rows).assign(**columns).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"
