"""A synthesised sequence compared with the one that was acquired, in z-scores, beside what needs no network.

Everything is measured over the foreground (the voxels of a head), where a background of zeros cannot flatter a mean. Two
baselines: the mean of the sequences that are there, and a linear regression on them, voxel by voxel, fitted on other
patients. V voxels, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RANGE = (0.5, 99.5)  # percentiles of the true foreground between which its range lies
RIDGE = 1e-6  # of the normal equations, in mean squares: two equal sequences must not break it


def fidelity(
    truth: np.ndarray,
    guess: np.ndarray,
    foreground: np.ndarray,
    parts: Mapping[str, np.ndarray] | None = None,
) -> dict[str, float | None]:
    """``psnr`` (dB), ``ssim``, ``rmse`` over the foreground, and ``rmse <part>`` over each of ``parts``; arrays ``[X, Y, Z]``.

    PSNR's peak and SSIM's range are the truth's own, from its 0.5 to its 99.5 percentile in the foreground. SSIM (Wang et al.,
    2004) is averaged over the foreground. None where there is no such voxel, or where nothing differs.
    """
    foreground = np.asarray(foreground, bool)
    if not foreground.any():
        return {"psnr": None, "ssim": None, "rmse": None, **{f"rmse {name}": None for name in parts or {}}}
    low, high = np.percentile(truth[foreground], RANGE)
    peak = max(float(high - low), 1e-6)
    square = (np.asarray(truth, np.float64) - guess) ** 2
    mse = float(square[foreground].mean())
    found: dict[str, float | None] = {
        "psnr": None if mse == 0 else float(10 * np.log10(peak**2 / mse)),
        "ssim": float(ssim_map(truth, guess, peak)[foreground].mean()),
        "rmse": mse**0.5,
    }
    for name, part in (parts or {}).items():
        inside = np.asarray(part, bool)
        found[f"rmse {name}"] = float(square[inside].mean() ** 0.5) if inside.any() else None
    return found


def ssim_map(truth: np.ndarray, guess: np.ndarray, peak: float) -> np.ndarray:
    """Structural similarity at every voxel ``[X, Y, Z]``, in Gaussian windows of deviation 1.5 and 11 voxels (borders are
    mirrored, so that every voxel has one); constants .01 and .03 of the range ``peak``."""
    from scipy.ndimage import gaussian_filter

    def mean(v: np.ndarray) -> np.ndarray:
        smooth: np.ndarray = gaussian_filter(v, 1.5, mode="mirror", radius=5)
        return smooth

    a, b = np.asarray(truth, np.float64), np.asarray(guess, np.float64)
    ma, mb = mean(a), mean(b)
    va, vb, both = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    out: np.ndarray = (2 * ma * mb + c1) * (2 * both + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return out


def moments(x: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Sums of products ``[C + 1, C + 1]`` of a one and the channels of ``x [C, X, Y, Z]`` over the foreground: what a
    regression needs of a subject, of which any channels can be taken later. An absent channel is NaN there."""
    values = np.asarray(x, np.float64)[:, foreground]
    rows = np.concatenate([np.ones((1, values.shape[1])), values])
    out: np.ndarray = rows @ rows.T
    return out


def regression(total: np.ndarray, inputs: Sequence[int], target: int) -> np.ndarray:
    """Coefficients ``[1 + len(inputs)]`` (the constant first) of the least-squares fit of channel ``target`` on ``inputs``,
    from summed :func:`moments`."""
    at = [0, *(i + 1 for i in inputs)]
    gram, mixed = total[np.ix_(at, at)], total[at, target + 1]
    gram = gram + RIDGE * total[0, 0] * np.eye(len(at))
    return np.linalg.solve(gram, mixed)  # type: ignore[no-any-return]


def applied(coefficients: np.ndarray, x: np.ndarray, inputs: Sequence[int]) -> np.ndarray:
    """The fit's answer ``[X, Y, Z]`` for ``x [C, X, Y, Z]``."""
    out = np.full(x.shape[1:], coefficients[0])
    for c, i in zip(coefficients[1:], inputs):
        out += c * x[i]
    return out.astype(np.float32)


def summary(
    rows: Sequence[Mapping[str, Any]], arms: Sequence[str], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """A line an arm and sequence: the mean of each metric over its rows that have it, and how many they are."""
    out = []
    for sequence in dict.fromkeys(r["sequence"] for r in rows):
        for arm in arms:
            mine = [r for r in rows if r["sequence"] == sequence and r["arm"] == arm]
            if not mine:
                continue
            line: dict[str, Any] = {"sequence": sequence, "arm": arm, "subjects": len(mine)}
            for metric in metrics:
                known = [r[metric] for r in mine if r.get(metric) is not None]
                line[metric] = round(float(np.mean(known)), 4) if known else None
            out.append(line)
    return out
