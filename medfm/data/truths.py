"""The truths of a generated corpus: from its table of labels to targets that a network can learn.

Columns named ``truth_*`` are measured numbers; binary columns are criteria that a record meets or not.
``cond_*``, the generator's own switches, are left out: they say what was intended, not what is in the signal.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from medfm.types import Truths

PREFIX = "truth_"
LIMIT = 4.0  # standardised numbers are clipped here: one absurd interval must not outweigh a thousand others
RARE = 0.01  # binary columns rarer than this, either way, are left out


def truths_of(labels: pd.DataFrame) -> Truths | None:
    """Targets of every row, or None for a table without truths.

    Numbers are standardised by their median and half the distance between the 16th and 84th percentile (a
    deviation that tails do not move); columns that hardly vary are left out.
    """
    names, columns, binary = [], [], []
    for name in labels.columns:
        values = pd.to_numeric(labels[name], errors="coerce").to_numpy(np.float32, copy=True)
        known = values[np.isfinite(values)]
        if name.startswith(PREFIX):
            low, middle, high = np.percentile(known, (16, 50, 84)) if len(known) else (0.0, 0.0, 0.0)
            if high - low < 1e-6 * max(1.0, abs(middle)):
                continue
            values = np.clip((values - middle) / ((high - low) / 2), -LIMIT, LIMIT)
        elif not _criterion(name, known):
            continue
        names.append(name)
        columns.append(values)
        binary.append(not name.startswith(PREFIX))
    if not any(not b for b in binary):
        return None
    return Truths(tuple(names), np.array(binary), np.stack(columns, 1).astype(np.float32))


def _criterion(name: str, known: np.ndarray) -> bool:
    """A binary column that is neither a switch nor too rare to learn, nor whether a follow-up ended with an event: that is
    half of a target, and depends on when the follow-up ended."""
    binary = len(known) > 0 and bool(np.isin(known, (0, 1)).all())
    return binary and not name.startswith("cond_") and name != "event" and RARE <= known.mean() <= 1 - RARE
