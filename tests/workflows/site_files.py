"""A site of a few patients with real WFDB files, and a tiny backbone bundle: enough for every fine-tuning
workflow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medfm.backbones.vit import ViT
from medfm.formats import wfdb
from medfm.hub.bundle import save_bundle
from medfm.hub.card import Card
from medfm.modalities.ecg import ECG
from medfm.modalities.leads import LEADS

FS, SECONDS = 100, 4


def make_backbone(folder: Path, seed: int = 0) -> Path:
    modality = ECG(fs=FS, seconds=SECONDS, normalise="record")
    torch.manual_seed(seed)
    net = ViT(
        rank=1, in_channels=12, input_size=modality.size, patch=(20,), dim=16, depth=2, heads=2, registers=1
    )
    card = Card(
        id="tiny-sim",
        summary="Never trained: 0 seconds on simulated data, for tests.",
        modality="ecg",
        architecture="ViT of width 16",
        simulated_only=True,
    )
    save_bundle(folder, net, modality.settings(), card)
    return folder


def make_site(folder: Path, patients: int = 24, per_patient: int = 1, seconds: float = SECONDS) -> Path:
    """``table.csv``: path, patient_id, y (every second patient: faster waves), blank, kind, site."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    time = np.arange(int(FS * seconds)) / FS
    rows = []
    for patient in range(patients):
        positive = patient % 2
        for record in range(per_patient):
            rate = (3.0 if positive else 1.2) * rng.uniform(0.9, 1.1)
            wave = np.sin(2 * np.pi * rate * time + rng.uniform(0, 6)) ** 9
            x = np.outer(np.linspace(0.4, 1.2, 12), wave) + 0.05 * rng.normal(size=(12, len(time)))
            wfdb.write(folder / f"r{patient:03d}_{record}", x.astype(np.float32), FS, LEADS)
            rows.append(
                {
                    "path": f"r{patient:03d}_{record}.hea",
                    "patient_id": f"p{patient:03d}",
                    "y": positive,
                    "partly": "" if patient % 5 == 0 else positive,
                    "kind": "abc"[patient % 3],
                    "site": "north" if patient < patients // 2 else "south",
                }
            )
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"
