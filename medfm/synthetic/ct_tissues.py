"""Hounsfield units of the trunk by phase of contrast: what is typical, how it varies, and how grainy it is.

Textbook values, rounded: fat -110 to -80, muscle 50 to 65, liver 50 to 65 without contrast and 90 to 130 in the portal
phase, aorta 40, about 300 (arterial) and 150 (portal); renal cortex lights up first, medulla later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PHASES = ("none", "arterial", "portal")
# tissue: HU without contrast, arterial, portal; grain (deviation of its own texture, HU); spread between people (HU)
_TABLE: dict[str, tuple[float, float, float, float, float]] = {
    "air": (-1000, -1000, -1000, 0, 0),
    "fat": (-102, -102, -100, 7, 3),
    "muscle": (55, 57, 61, 8, 2),
    "skin": (15, 18, 25, 10, 4),
    "breast": (10, 12, 16, 14, 8),
    "lung": (-855, -853, -850, 16, 15),
    "airway": (-998, -998, -998, 2, 0),
    "blood": (42, 300, 150, 4, 2),
    "right_blood": (42, 240, 148, 6, 2),
    "venous": (41, 85, 150, 4, 2),
    "lung_vessel": (40, 200, 140, 8, 2),
    "myocardium": (45, 95, 108, 6, 3),
    "mediastinum": (-80, -76, -70, 22, 6),
    "oesophagus": (40, 50, 58, 8, 3),
    "liver": (58, 64, 110, 5, 2.5),
    "liver_vein": (40, 62, 160, 4, 2),
    "spleen": (50, 115, 122, 5, 2),
    "cortex": (34, 180, 175, 6, 2),
    "medulla": (32, 68, 160, 6, 2),
    "sinus": (-60, -40, -30, 15, 8),
    "pancreas": (42, 100, 92, 9, 4),
    "stomach_wall": (40, 75, 82, 5, 3),
    "meal": (22, 22, 22, 16, 10),
    "gas": (-990, -990, -990, 4, 3),
    "bowel": (34, 55, 70, 16, 4),
    "stool": (20, 20, 22, 60, 10),
    "bile": (8, 8, 8, 2, 3),
    "water": (8, 9, 10, 3, 2),
    "disc": (82, 84, 88, 8, 6),
    "canal": (32, 33, 36, 5, 3),
    "marrow": (165, 168, 175, 45, 0),
    "rib_marrow": (150, 152, 160, 45, 0),
    "bone": (850, 850, 855, 50, 0),
    "cartilage": (110, 110, 112, 18, 6),
    "lesion": (30, 38, 58, 8, 3),
    "nodule": (30, 52, 58, 8, 6),
    "atelectasis": (-120, -60, -50, 60, 30),
    "shell": (-150, -150, -150, 10, 0),
    "foam": (-940, -940, -940, 4, 0),
}
TISSUES = tuple(_TABLE)
ID = {name: k for k, name in enumerate(TISSUES)}


@dataclass(frozen=True)
class Palette:
    """HU and grain of every tissue of one scan, float32 ``[len(TISSUES)]``."""

    hu: np.ndarray
    grain: np.ndarray

    def __getitem__(self, name: str) -> np.float32:
        return self.hu[ID[name]]


def palette(
    phase: str, spread: np.ndarray, enhancement: float, bone: float, lung: float, calibration: float
) -> Palette:
    """The HU of a scan. spread: normals ``[len(TISSUES)]``, one a tissue; enhancement: how much of the usual contrast
    arrives; bone: mineral as a factor; lung: density as a factor; calibration: how far the scanner is off, HU at
    water."""
    table = np.array(list(_TABLE.values()), np.float64)
    native, shown = table[:, 0], table[:, PHASES.index(phase)]
    hu = native + (shown - native) * enhancement + table[:, 4] * np.clip(spread, -2, 2)
    for name, rest in (("bone", 300.0), ("marrow", 20.0), ("rib_marrow", 20.0)):
        hu[ID[name]] = rest + (hu[ID[name]] - rest) * bone
    hu[ID["lung"]] = -1000 + (hu[ID["lung"]] + 1000) * lung
    hu += calibration * (hu + 1000) / 1000
    return Palette(hu.astype(np.float32), table[:, 3].astype(np.float32))
