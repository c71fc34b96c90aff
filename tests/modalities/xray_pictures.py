"""A crude chest for tests of what is found in pictures: air, body, lungs, spine, ribs; grey 0 to 1, bone bright."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def chest(rows: int = 300, columns: int = 240, seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns].astype(float)
    y, x = y / rows, x / columns
    body = 1 / (1 + np.exp((np.abs(x - 0.5) - 0.4 * (0.55 + 0.45 * np.clip(y / 0.35, 0, 1))) / 0.01))
    lungs = np.zeros_like(y)
    for centre in (0.3, 0.7):
        lungs = np.maximum(
            lungs, 1 / (1 + np.exp(12 * (np.hypot((x - centre) / 0.14, (y - 0.45) / 0.28) - 1)))
        )
    spine = np.exp(-(((x - 0.5) / 0.05) ** 2))
    ribs = 0.5 + 0.5 * np.cos(40 * y + 6 * np.abs(x - 0.5))
    grey = body * (0.55 + 0.25 * spine - 0.4 * lungs + 0.06 * ribs * lungs) + 0.03
    noise = np.random.default_rng(seed).normal(0, 0.01, grey.shape)
    return np.clip(grey + noise, 0, 1)


def with_text(grey: np.ndarray, text: str, at: tuple[int, int], size: int) -> np.ndarray:
    canvas = Image.fromarray(np.rint(grey * 255).astype(np.uint8))
    ImageDraw.Draw(canvas).text(at, text, fill=255, font=ImageFont.load_default(size))
    return np.asarray(canvas) / 255.0
