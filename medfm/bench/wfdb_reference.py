"""FROZEN. One window of a WFDB record in plain wfdb and scipy: the yardstick of ``medfm bench load --modality ecg``.

What a training script does that has no ingest store: ``wfdb.rdrecord`` and polyphase resampling, record by record.
Not changed since it was written, so that a ratio measured today compares with one of last year. It imports nothing of
medfm, and so is the one place outside ``formats`` that knows wfdb. Shapes: C leads, T samples.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import wfdb
from scipy.signal import resample_poly


def read_window(record: str, fs: float, samples: int) -> np.ndarray:
    """The first ``samples`` of a record (its path without ``.hea``) at ``fs`` Hz: float32 ``[C, samples]``, mV.

    A record that has the rate already is not resampled.
    """
    read = wfdb.rdrecord(record)
    x = read.p_signal
    if read.fs != fs:
        share = Fraction(fs / read.fs).limit_denominator(1000)
        x = resample_poly(x, share.numerator, share.denominator, axis=0)
    return np.ascontiguousarray(x[:samples].T, np.float32)
