"""From a generated table to targets: which columns, on which scale."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medfm.data.truths import truths_of


def test_numbers_are_standardised_and_criteria_kept():
    values = np.arange(1001, dtype=float)
    table = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(1001)],
            "sex": "F",
            "age": values,
            "truth_qrs_ms": values,
            "truth_constant": 7.0,
            "truth_absent": np.nan,
            "lbbb": (values < 100).astype(int),
            "rare": (values < 3).astype(int),
            "cond_lbbb": (values < 100).astype(int),
        }
    )
    table.loc[0, "truth_qrs_ms"] = 1e6
    table.loc[1, "truth_qrs_ms"] = np.nan
    truths = truths_of(table)
    assert truths.names == ("truth_qrs_ms", "lbbb")
    assert truths.binary.tolist() == [False, True]
    assert truths.values.dtype == np.float32 and truths.values.shape == (1001, 2)
    number = truths.values[:, 0]
    assert number[0] == 4.0 and np.isnan(number[1])  # absurd: clipped; unknown: unknown
    assert number[501] == pytest.approx(0.0, abs=0.01)
    assert number[841] == pytest.approx(1.0, abs=0.01)  # 84th percentile
    assert truths.rate[1] == pytest.approx(100 / 1001)


def test_a_table_of_labels_alone_has_no_truths():
    assert truths_of(pd.DataFrame({"patient_id": ["a", "b"], "afib": [0, 1]})) is None
