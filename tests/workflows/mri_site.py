"""A site of a few MRI subjects as NIfTI files, some without a sequence, and a tiny backbone bundle for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medfm.backbones.sequence_vit import SequenceViT
from medfm.formats.volume_write import write_nifti
from medfm.hub.bundle import save_bundle
from medfm.hub.card import Card
from medfm.modalities.mri import MRI

SEQUENCES = ("t1", "t1ce", "t2", "flair")
SIZE, SPACING = (8, 8, 8), (4.0, 4.0, 4.0)
MISSING = {2: "t2", 5: "t1ce"}


def make_backbone(folder: Path, seed: int = 0, decoder: str = "reconstruction") -> Path:
    modality = MRI(size=SIZE, spacing=SPACING, foreground="nonzero")
    torch.manual_seed(seed)
    network = SequenceViT(
        in_channels=4,
        input_size=SIZE,
        patch=(4, 4, 4),
        dim=24,
        depth=2,
        heads=2,
        mlp_dim=24,
        decoder=decoder,
        decoder_dim=24,
        decoder_depth=1,
        decoder_heads=2,
    )
    card = Card(
        id="tiny-mri-sim",
        summary="Never trained: 0 seconds on simulated data, for tests.",
        modality="mri",
        architecture="sequence_vit",
        simulated_only=True,
    )
    save_bundle(folder, network, modality.settings(), card)
    return folder


def subject(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sequences by name ``[12, 12, 11]``, zero outside a head, and a mask: 1 and 4 inside 2."""
    rng = np.random.default_rng(seed)
    grid = np.indices((12, 12, 11)) - np.array([5.5, 5.5, 5.0])[:, None, None, None]
    head = (grid**2).sum(0) < 5.2**2
    at = rng.uniform(-1.5, 1.5, 3)[:, None, None, None]
    away = np.sqrt(((grid - at) ** 2).sum(0))
    mask = np.select([~head, away < 1.0, away < 1.8, away < 2.8], [0, 1, 4, 2], 0).astype(np.uint8)
    x = {}
    for k, name in enumerate(SEQUENCES):
        levels = np.array([100.0, 60 + 20 * k, 130 - 10 * k, 100, 90 + 40 * k])
        x[name] = ((levels[mask] + rng.normal(0, 5, head.shape)) * head).astype(np.float32)
    return x, mask


def make_site(folder: Path, patients: int = 6) -> Path:
    """``table.csv``: a column a sequence (two subjects lack one), label, patient_id, subtype, site."""
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*SPACING, 1.0])
    rows = []
    for p in range(patients):
        x, mask = subject(p)
        row = {name: f"p{p}_{name}.nii.gz" for name in SEQUENCES if MISSING.get(p) != name}
        for name, file in row.items():
            write_nifti(folder / file, x[name], affine)
        write_nifti(folder / f"p{p}_seg.nii.gz", mask, affine)
        rows.append(
            {**row, "label": f"p{p}_seg.nii.gz", "patient_id": f"p{p}", "subtype": p % 2, "site": "ab"[p % 2]}
        )
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"
