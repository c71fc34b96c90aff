"""Which kind of task a user's targets are: classes, a value or survival, from the table or as asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from medfm.finetuning.regression import Regression, is_continuous, make_regression
from medfm.finetuning.survival import Survival, make_survival
from medfm.finetuning.task import KINDS, Task, column_of, make_classes
from medfm.types import ConfigError, MedfmError

VALUES: dict[str, type[Task]] = {"regression": Regression, "survival": Survival}


def make_task(frame: pd.DataFrame, targets: Sequence[str], kind: str = "auto") -> tuple[Task, np.ndarray]:
    """Infer the task of ``targets`` in ``frame`` and encode them: ``(Task, y float64 [n, K])`` with NaN for
    unknown.

    ``COLUMN=VALUE`` asks for that value against every other one. A column of numbers with more than 20 different values is a
    regression, unless said otherwise; survival is always said. Of a regression y is ``[n, 1]``, of survival ``[n, 2]`` (time,
    event). Raises :class:`MedfmError` for a missing column, one class only, dates, infinities, or a kind that the columns
    cannot be.
    """
    targets = list(dict.fromkeys(t.strip() for t in targets if t.strip()))
    if not targets:
        raise ConfigError("no target: name one with --target COLUMN (or several: COLUMN,COLUMN).")
    if kind not in ("auto", *KINDS):
        raise MedfmError(f"--task {kind} is unknown; use auto, {', '.join(KINDS[:-1])} or {KINDS[-1]}.")
    columns = [column_of(frame, t) for t in targets]
    if kind == "survival":
        return make_survival(columns)
    if kind == "regression" or (kind == "auto" and len(columns) == 1 and is_continuous(columns[0][1])):
        return make_regression(columns, asked=kind == "regression")
    return make_classes(columns, kind)


def task_of(plain: dict[str, Any]) -> Task:
    """A task of any kind from its ``to_dict()`` (and ``parameters``). Raises ``KeyError`` or ``TypeError`` for what is none."""
    return VALUES.get(plain["kind"], Task).from_dict(plain)
