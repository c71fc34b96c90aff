"""Painting a trunk into a grid: HU with partial volume at every surface, a map of tissues, a map of labels."""

from __future__ import annotations

import numpy as np

from medfm.synthetic.ct_grid import Box, Grid
from medfm.synthetic.ct_tissues import ID, Palette

ORGANS = (
    "background",
    "body",
    "lung_right",
    "lung_left",
    "airways",
    "heart",
    "aorta",
    "spine",
    "ribs",
    "liver",
    "spleen",
    "kidney_right",
    "kidney_left",
    "stomach",
    "liver_lesion",
    "lung_nodule",
    "kidney_cyst",
    "effusion",
)
LABEL = {name: k for k, name in enumerate(ORGANS)}


class Canvas:
    """hu float32, tissue and label uint8, all ``[X, Y, Z]`` and air to begin with."""

    def __init__(self, grid: Grid, colours: Palette) -> None:
        self.grid, self.colours = grid, colours
        self.hu = np.full(grid.shape, colours["air"], np.float32)
        self.tissue = np.zeros(grid.shape, np.uint8)
        self.label = np.zeros(grid.shape, np.uint8)

    def solid(self, box: Box, inside: np.ndarray, tissue: str, label: str | None = None) -> None:
        """Fill what has a positive distance; a surface is spread over a voxel."""
        share = np.multiply(inside, np.float32(1 / self.grid.edge))
        share += np.float32(0.5)
        np.clip(share, 0, 1, out=share)
        self.mix(box, share, tissue, label)

    def mix(self, box: Box, share: np.ndarray, tissue: str, label: str | None = None) -> None:
        """Put ``share`` (0 to 1) of a tissue into the voxels of a box; those with more than half take its name."""
        hu = self.hu[box]
        hu += share * (self.colours[tissue] - hu)
        here = share > 0.5
        self.tissue[box][here] = ID[tissue]
        if label is not None:
            self.label[box][here] = LABEL[label]

    def tube(
        self, points: np.ndarray, radius: np.ndarray | float, tissue: str, label: str | None = None
    ) -> None:
        """Tubes by points along their axes, closer together than they are wide."""
        box, share = self.grid.stamp(points, np.broadcast_to(np.asarray(radius, float), len(points)))
        self.mix(box, share, tissue, label)
