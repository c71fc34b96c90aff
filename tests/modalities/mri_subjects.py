"""Small subjects for the tests: a ball of brain with a mark, stripped (zeros around it) or a head in noisy air."""

from __future__ import annotations

import numpy as np

from medfm.types import Volume


def ball(shape=(20, 18, 16), radius=6.0):
    """bool ``[X, Y, Z]``."""
    middle = (np.array(shape) - 1) / 2
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return ((index - middle) ** 2).sum(-1) < radius**2


def picture(seed=0, shape=(20, 18, 16), radius=6.0, head=False):
    """float32 values of 100 to 200 in the ball, 0 around it; of a head, noise of up to 20."""
    rng = np.random.default_rng(seed)
    inside = ball(shape, radius)
    x = np.where(inside, rng.uniform(100, 200, shape), rng.uniform(1, 20, shape) if head else 0.0)
    return x.astype(np.float32)


def volume(x, affine=None, **more):
    return Volume(x, np.eye(4) if affine is None else affine, more.pop("unit", ""), "test", **more)


def subject(*names, head=False, **changed):
    """One picture a name, each of its own seed; ``changed``: name to Volume."""
    found = {name: volume(picture(i, head=head)) for i, name in enumerate(names)}
    return {**found, **changed}
