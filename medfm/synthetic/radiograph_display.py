"""From light to a picture: logarithm, exposure recognition, detail, tone curve, collimation and side marker."""

from __future__ import annotations

import numpy as np

from medfm.synthetic.projection import Beam, smoothing
from medfm.synthetic.xray_subjects import Device

_LETTERS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


def display(
    light: np.ndarray, beam: Beam, device: Device, level: float, frame: tuple[float, float, float, float]
) -> np.ndarray:
    """Grey values 0 (black) to 1 (white), dense parts bright, ``[H, W]`` float32.

    The logarithm of the light is stretched between its 3rd and 97th percentile inside the frame, as the exposure
    recognition of a machine does; wide variations are compressed, fine ones raised by ``device.detail``, and a
    sigmoid makes the tone curve.
    """
    rows, columns = inner(frame, beam.size)
    loss = -np.log(np.maximum(light, 1e-6))
    sample = loss[rows, columns][::2, ::2]
    low, high = np.percentile(sample[sample > 0.35] if (sample > 0.35).mean() > 0.2 else sample, (2, 97))
    grey = (loss - np.float32(low)) / np.float32(max(high - low, 1e-3))
    fine = [smoothing(n, 7.0 / beam.pixel) for n in beam.size]
    wide = [smoothing(n, 60.0 / beam.pixel) for n in beam.size]
    smooth = fine[0] @ grey @ fine[1].T
    broad = wide[0] @ np.clip(grey, -0.2, 1.2) @ wide[1].T
    grey += np.float32(device.detail) * (grey - smooth) - np.float32(0.18) * (broad - np.float32(0.5))
    curve = 1 / (1 + np.exp(-np.float32(device.curve) * (grey - np.float32(device.middle - level))))
    black, white = (1 / (1 + np.exp(-device.curve * (v - device.middle + level))) for v in (-0.12, 1.05))
    return np.clip((curve - np.float32(black)) / np.float32(white - black), 0, 1).astype(np.float32)


def inner(frame: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns inside the collimated field."""
    left, top, right, bottom = frame
    return slice(round(top * size[0]), round(bottom * size[0])), slice(
        round(left * size[1]), round(right * size[1])
    )


def collimate(image: np.ndarray, frame: tuple[float, float, float, float]) -> np.ndarray:
    """Black beyond the collimated field, as machines mask what the shutters hide."""
    rows, columns = inner(frame, (image.shape[0], image.shape[1]))
    out = np.zeros_like(image)
    out[rows, columns] = image[rows, columns]
    return out


def burn_marker(image: np.ndarray, letter: str, place: tuple[float, float], height: float) -> np.ndarray:
    """The side's letter, white, ``height`` pixels tall, its centre at ``place`` (shares of width and height)."""
    if not letter:
        return image
    bitmap = np.array([[c == "1" for c in row] for row in _LETTERS[letter]])
    tall = max(7, round(height))
    wide = max(5, round(height * 5 / 7))
    big = bitmap[np.arange(tall) * 7 // tall][:, np.arange(wide) * 5 // wide]
    top = int(np.clip(round(place[1] * image.shape[0] - tall / 2), 0, max(image.shape[0] - tall, 0)))
    left = int(np.clip(round(place[0] * image.shape[1] - wide / 2), 0, max(image.shape[1] - wide, 0)))
    out = image.copy()
    spot = out[top : top + tall, left : left + wide]
    spot[big[: spot.shape[0], : spot.shape[1]]] = 1.0
    return out
