"""``medfm probe --optimism``: what folds by record flatter, and where the question makes no sense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from medfm.finetuning.task import Task
from medfm.types import ConfigError
from medfm.workflows.cohort import Cohort
from medfm.workflows.finetune_run import outer_folds
from medfm.workflows.probe_optimism import PROBE, check_optimism, flattery, fold_table


def _cohort(records: int, kind: str = "binary", patients: int = 60) -> Cohort:
    rng = np.random.default_rng(0)
    n = patients * records
    y = np.repeat(rng.integers(0, 2, patients), records).astype(float)[:, None]
    return Cohort(
        frame=pd.DataFrame({"record": [f"r{i}" for i in range(n)]}),
        rows=np.arange(n),
        task=Task(kind, ("label",), ("label",)),  # type: ignore[arg-type]
        y=y,
        patients=np.repeat([f"p{i}" for i in range(patients)], records),
        store=None,
        source="",
        digest="",
        patients_known=True,
        rows_in_table=n,
        unlabelled=0,
    )


def test_a_fit_that_knows_patients_is_flattered_by_records() -> None:
    cohort = _cohort(3)
    who = np.unique(cohort.patients, return_inverse=True)[1]

    def refit(one: Cohort, parts: list[list[np.ndarray]]) -> dict[str, np.ndarray]:
        """The mean label of the same person's training records; half where there is none."""
        out = np.full((len(parts), len(who), 1), 0.5)
        for repeat, tests in enumerate(parts):
            for test in tests:
                train = np.setdiff1d(np.arange(len(who)), test)
                for row in test:
                    same = train[who[train] == who[row]]
                    if len(same):
                        out[repeat, row, 0] = one.y[same, 0].mean()
        return {PROBE: out}

    tests = [outer_folds(cohort, 4, r, strict=False) for r in range(2)]
    honest = refit(cohort, tests)[PROBE]
    found = flattery(cohort, tests, honest, refit, 4, 100, 0)
    assert found["by_patient"] == 0.5 and found["by_record"] > 0.9
    assert found["optimism"]["low"] > 0.3 and found["patients"] == 60
    table = fold_table(tests, len(who))
    assert all(len(set(table[0, who == p])) == 1 for p in range(60))


@pytest.mark.parametrize(
    ("records", "kind", "word"), [(1, "binary", "several records"), (2, "regression", "AUROC")]
)
def test_it_is_refused_where_it_says_nothing(records: int, kind: str, word: str) -> None:
    cohort: Any = _cohort(records, kind)
    with pytest.raises(ConfigError, match=word):
        check_optimism(cohort)
