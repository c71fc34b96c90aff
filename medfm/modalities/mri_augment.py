"""Augmentations of MRI batches, in z-score units, each with the labels that it leaves true.

Off unless asked. What moves a subject moves all its sequences and its masks alike; grey values change in each sequence by
itself, since each was scaled by itself. Arrays: x float32 ``[B, C, X, Y, Z]``, changed in place; absent sequences are NaN and
stay so, and no transform takes one away. labels ``[B, K, X, Y, Z]`` or None.

Background is exactly 0 and stays 0. BM-MAE's recipe shifts it too, to a value that no subject at inference has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from medfm.modalities.base import LABEL_KINDS, Augmentation
from medfm.modalities.ct_augment import AUGMENTATIONS as OF_CT
from medfm.types import MedfmError

Labels = np.ndarray | None
Apply = Callable[..., None]


def _moved(name: str) -> Apply:
    """The movement of that name of a CT, the same for all sequences of a subject."""
    move = OF_CT[name].apply

    def apply(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
        seed = int(rng.integers(2**63))
        for c in range(x.shape[1]):
            move(x[:, c : c + 1], np.random.default_rng(seed), labels if c == 0 else None)

    return apply


def _sequences(x: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each sequence ``[X, Y, Z]`` that is there, and its foreground."""
    for subject in x:
        for one in subject:
            inside = np.isfinite(one) & (one != 0)
            if inside.any():
                yield one, inside


def _contrast(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """Times 0.9 to 1.1, as BM-MAE has it."""
    x *= (1 + rng.uniform(-0.1, 0.1, (*x.shape[:2], 1, 1, 1))).astype(np.float32)


def _shift(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """Up to 0.1 more or less, as BM-MAE has it, of the foreground."""
    for one, inside in _sequences(x):
        one[inside] += np.float32(rng.uniform(-0.1, 0.1))


def _gamma(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """The range of the foreground to a power of 0.8 to 1.25, mean and deviation kept."""
    for one, inside in _sequences(x):
        values = one[inside]
        power, mean, std = np.exp(rng.uniform(np.log(0.8), np.log(1.25))), values.mean(), values.std()
        bent = ((values - values.min()) / max(float(np.ptp(values)), 1e-6)) ** np.float32(power)
        one[inside] = (bent - bent.mean()) / max(float(bent.std()), 1e-6) * std + mean


def _bias(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """A coil's field: the signal over the darkest foreground times 0.7 to 1.3, a polynomial of second degree in place."""
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in x.shape[2:])]
    terms = [axes[i] for i in range(3)] + [axes[i] * axes[j] for i in range(3) for j in range(i, 3)]
    for one, inside in _sequences(x):
        field = sum(weight * term for weight, term in zip(rng.normal(size=len(terms)), terms))
        field = 1 + rng.uniform(0, 0.3) * field / np.abs(field).max()
        low = one[inside].min()
        one[inside] = low + (one[inside] - low) * field[inside].astype(np.float32)


def _noise(x: np.ndarray, rng: np.random.Generator, labels: Labels = None) -> None:
    """Thermal noise: deviation up to 0.1 in the foreground."""
    for one, inside in _sequences(x):
        one[inside] += np.float32(rng.uniform(0, 0.1)) * rng.standard_normal(inside.sum(), dtype=np.float32)


def _all_but(*kinds: str) -> frozenset[str]:
    assert set(kinds) <= set(LABEL_KINDS)
    return frozenset(LABEL_KINDS) - set(kinds)


# Applied in this order: how the head lies, then its coil, then the scaling of its values.
AUGMENTATIONS: dict[str, Augmentation] = {
    a.name: a
    for a in (
        Augmentation(
            "flip", _moved("flip"), _all_but("laterality", "location"), "reversed along each axis in half"
        ),
        Augmentation(
            "mirror",
            _moved("mirror"),
            _all_but("laterality", "location"),
            "left and right exchanged in half",
        ),
        Augmentation(
            "rotation",
            _moved("rotation"),
            _all_but("location"),
            "turned by up to 15 degrees in plane, 5 out of it",
        ),
        Augmentation(
            "scale", _moved("scale"), _all_but("size", "location"), "larger or smaller by up to a quarter"
        ),
        Augmentation("bias", _bias, _all_but("density", "quality"), "a coil's field, up to 30 %"),
        Augmentation("noise", _noise, _all_but("texture", "quality"), "noise of up to 0.1 deviations"),
        Augmentation("gamma", _gamma, _all_but("density"), "grey to a power of 0.8 to 1.25"),
        Augmentation("contrast", _contrast, _all_but("density"), "z-scores times 0.9 to 1.1"),
        Augmentation("shift", _shift, _all_but("density"), "z-scores up to 0.1 more or less"),
    )
}


def augmentation(name: str) -> Augmentation:
    """Of the table. Raises :class:`MedfmError` on an unknown name."""
    if name not in AUGMENTATIONS:
        raise MedfmError(f"unknown MRI augmentation {name}; known: {', '.join(AUGMENTATIONS)}.")
    return AUGMENTATIONS[name]
