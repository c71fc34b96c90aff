"""A bundle small enough for every test: a real ViT of width 16 on two seconds of a real twelve-lead ECG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfm.backbones.vit import ViT
from medfm.hub.bundle import Bundle, save_bundle
from medfm.hub.card import Card, Dataset, Result, simulated_sentence
from medfm.modalities.ecg import ECG

FS, SECONDS = 100.0, 2.0


def ecg() -> ECG:
    return ECG(
        fs=FS, seconds=SECONDS, normalise="dataset", mean=[0.01 * i for i in range(12)], std=[0.2] * 12
    )


def vit(seed: int = 0) -> ViT:
    torch.manual_seed(seed)
    return ViT(
        rank=1, in_channels=12, input_size=(200,), patch=(25,), dim=16, depth=2, heads=2, registers=1
    ).eval()


def card(identifier: str = "tiny-sim", **changes: Any) -> Card:
    score = Result(metric="AUROC", value=0.8, ci=(0.7, 0.9), baseline=0.6, dataset="held out", patients=20)
    fields: dict[str, Any] = {
        "id": identifier,
        "summary": simulated_sentence("ecg", 12, "one CPU core", 40, 40),
        "modality": "ecg",
        "architecture": "ViT, width 16",
        "parameters": 11_000,
        "method": "ecg_jepa",
        "datasets": [Dataset(name="synthetic-ecg", records=40, patients=40, simulated=True)],
        "simulated_only": True,
        "results": [score],
        "created": "2026-01-02",
    }
    return Card(**{**fields, **changes})


def save(folder: Path, identifier: str = "tiny-sim", *, seed: int = 0, **options: Any) -> Bundle:
    return save_bundle(folder, vit(seed), ecg().settings(), options.pop("card", card(identifier)), **options)


def waves(n: int, seconds: float = SECONDS, fs: float = FS, seed: int = 0) -> np.ndarray:
    """``[n, 12, T]`` mV: noise and a beat a second, different in every record."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * fs)) / fs
    beats = np.exp(-((t % 1.0 - 0.5) ** 2) / 0.001)
    scale = rng.uniform(0.3, 1.5, (n, 12, 1))
    return (scale * beats + rng.normal(0, 0.05, (n, 12, len(t)))).astype(np.float32)
