"""The question: which kind of task a table's columns are, their targets ``[n, K]``, and the loss.

A blank is UNKNOWN (NaN), never negative: it enters neither loss nor metric. n records, K outputs.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from medfm.types import ConfigError, MedfmError

Kind = Literal["binary", "multiclass", "multilabel", "regression", "survival"]
KINDS = ("binary", "multiclass", "multilabel", "regression", "survival")
YES = {"yes", "y", "true", "t", "1", "1.0", "positive", "pos", "present"}
NO = {"no", "n", "false", "f", "0", "0.0", "negative", "neg", "absent"}
MAX_CLASSES = 20


@dataclass(frozen=True)
class Task:
    """``kind``, the ``columns`` asked for, one name an output in ``classes``, and what a reader should know.

    binary: K = 1. multiclass: one-hot of K classes. multilabel: one output a column. Values and survival times are tasks of
    their own (:class:`medfm.finetuning.regression.Regression`, :class:`medfm.finetuning.survival.Survival`), with what they
    learn of a training fold before its network does.
    """

    kind: Kind
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def outputs(self) -> int:
        """Numbers that the head gives a record."""
        return len(self.classes)

    def fitted(self, y: np.ndarray) -> Task:
        """This task with what it takes from the targets ``y`` of training records: nothing, for classes."""
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """What :meth:`fitted` found, for a file: ``to_dict() | parameters`` is the fitted task."""
        return {}

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Targets of the table as those that :meth:`loss` compares with the head."""
        return y

    def strata(self, y: np.ndarray) -> tuple[np.ndarray, Any]:
        """What folds are balanced on, and how (``y`` and ``task`` of :func:`medfm.data.splits.patient_folds`)."""
        return y, self.kind

    def check_folds(self, y: np.ndarray, patients: np.ndarray, folds: int) -> None:
        """Raise :class:`MedfmError` where not every fold can be given what its metric needs."""
        _check_classes(self, y, patients, folds)

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """What the model says of each record ``[n, P]``: probabilities, for classes."""
        return self.probabilities(logits)

    def columns_of(self, p: np.ndarray, arm: str = "") -> dict[str, np.ndarray]:
        """Predictions ``[n, P]`` by the names of their columns in a file."""
        return {f"p_{arm}{name}": p[:, k] for k, name in enumerate(self.classes)}

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "columns": list(self.columns), "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """Raises ``KeyError`` or ``TypeError`` for what is no such task; of any kind:
        :func:`medfm.finetuning.question.task_of`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
        return cls(**fields)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean over known targets of the cross-entropy; logits and target ``[B, K]``, NaN in target is
        unknown.

        Without class weights: weights would shift every predicted probability away from the site's
        prevalence.
        """
        known = torch.isfinite(target)
        if self.kind == "multiclass":
            rows = known.all(1)
            if not rows.any():
                return logits.sum() * 0.0
            return -(target[rows] * F.log_softmax(logits[rows], dim=1)).sum(1).mean()
        if not known.any():
            return logits.sum() * 0.0
        return F.binary_cross_entropy_with_logits(logits[known], target[known])

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """``[n, K]``: sigmoid, or softmax over classes for multiclass."""
        tensor = torch.from_numpy(np.asarray(logits, np.float64))
        return (tensor.softmax(1) if self.kind == "multiclass" else tensor.sigmoid()).numpy()

    def prevalence_logits(self, y: np.ndarray) -> np.ndarray:
        """``[K]``: the logits of a model that knows nothing but how common each class is (add-one
        smoothed)."""
        known = np.isfinite(y)
        count, positive = known.sum(0), np.where(known, y, 0.0).sum(0)
        if self.kind == "multiclass":
            return np.log((positive + 1) / (count + self.outputs))
        share = (positive + 1) / (count + 2)
        return np.log(share / (1 - share))


def make_classes(columns: Sequence[tuple[str, pd.Series]], kind: str) -> tuple[Task, np.ndarray]:
    """The task of columns of classes, and its y ``[n, K]``; several columns are multilabel."""
    if len(columns) > 1:
        if kind not in ("auto", "multilabel"):
            raise MedfmError(
                f"--task {kind} takes one target column, not {len(columns)}; several columns are multilabel."
            )
        pairs = [_binary(name, values) for name, values in columns]
        notes = tuple(n for _, note in pairs for n in note)
        names = tuple(name for name, _ in columns)
        return Task("multilabel", names, names, notes), np.stack([y for y, _ in pairs], axis=1)
    name, values = columns[0]
    distinct = _distinct(name, values)
    if kind == "auto":
        spellings = {str(v).lower() for v in distinct} <= YES | NO  # yes, y and true are one answer
        kind = "binary" if len(distinct) == 2 or spellings else "multiclass"
    if kind == "multiclass":
        return _multiclass(name, values, distinct)
    y, notes_ = _binary(name, values)
    return Task("multilabel" if kind == "multilabel" else "binary", (name,), (name,), tuple(notes_)), y[
        :, None
    ]


def check_counts(task: Task, y: np.ndarray, patients: Sequence[str], folds: int) -> None:
    """Every class (or the event) needs a patient in every fold, on both sides; else no fold's metric exists."""
    if (count := len(set(patients))) < folds:
        raise MedfmError(
            f"{count} patients cannot be split into {folds} folds; set finetune.folds={max(2, count)} or "
            "bring more patients."
        )
    task.check_folds(y, np.asarray(patients), folds)


def _check_classes(task: Task, y: np.ndarray, ids: np.ndarray, folds: int) -> None:
    for k, name in enumerate(task.classes):
        sides = (
            [("positive", y[:, k] == 1)]
            if task.kind == "multiclass"
            else [("positive", y[:, k] == 1), ("negative", y[:, k] == 0)]
        )
        for side, rows in sides:
            held = len(set(ids[rows]))
            if held == 0:
                raise MedfmError(
                    f"target {name!r} has one class only (no {side} record): there is nothing to learn."
                )
            if held < folds:
                what = f"class {name!r}" if task.kind == "multiclass" else f"target {name!r}"
                lower = f"set finetune.folds={held}, " if held >= 2 else ""
                last = (
                    "leave the cells of this class blank (unknown)"
                    if task.kind == "multiclass"
                    else "leave this target out"
                )
                raise MedfmError(
                    f"{what} has {held} patient(s) with a {side} record, fewer than {folds} folds: "
                    f"{lower}bring more, or {last}."
                )


def column_of(frame: pd.DataFrame, target: str) -> tuple[str, pd.Series]:
    if target in frame:
        return target, _known(frame[target])
    name, equals, value = target.rpartition("=")
    if equals and name in frame:
        values = _known(frame[name])
        text = values.map(as_text)
        if value not in set(text.dropna()):
            raise MedfmError(
                f"--target {target}: no row of {name!r} holds {value!r}; values: "
                f"{some(sorted(set(text.dropna())))}."
            )
        return target, (text == value).astype(float).where(values.notna())
    columns = {str(c).lower(): str(c) for c in frame.columns}
    near = difflib.get_close_matches(target.lower(), columns, n=3, cutoff=0.6)
    offered = " or ".join(repr(columns[n]) for n in near)
    hint = f"; did you mean {offered}?" if near else f"; columns: {some(list(columns.values()))}."
    raise ConfigError(f"the table has no target column {target!r}{hint}")


def _known(values: pd.Series) -> pd.Series:
    """Blank strings are unknown too."""
    if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values):
        return values
    stripped = values.map(lambda v: v.strip() if isinstance(v, str) else v)
    return stripped.where(stripped.map(lambda v: not (isinstance(v, str) and v == "")), other=np.nan)


def as_text(value: Any) -> Any:
    if pd.isna(value):
        return np.nan
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def some(values: list[str]) -> str:
    return ", ".join(values[:8]) + (", ..." if len(values) > 8 else "")


def _distinct(name: str, values: pd.Series) -> list[Any]:
    """The known values in order, after every reason why the column cannot hold classes."""
    known = values.dropna()
    if not len(known):
        raise MedfmError(f"target {name!r} has no known value: every row is blank.")
    if pd.api.types.is_datetime64_any_dtype(known):
        raise MedfmError(
            f"target {name!r} holds dates; derive a label from them (for instance event within a year: 0 "
            "or 1)."
        )
    if pd.api.types.is_numeric_dtype(known) and not pd.api.types.is_bool_dtype(known):
        numbers = known.to_numpy(np.float64)
        if not np.isfinite(numbers).all():
            raise MedfmError(infinite(name))
        distinct = sorted(set(numbers.tolist()))
        whole = all(v.is_integer() for v in distinct)
        if len(distinct) > 2 and (not whole or len(distinct) > MAX_CLASSES):
            raise MedfmError(
                f"target {name!r} looks continuous ({len(distinct)} different numbers from "
                f"{distinct[0]:g} to {distinct[-1]:g}); use --task regression for its value, --task survival --target "
                "TIME,EVENT where it is a follow-up time, or make classes of it (for instance above a threshold: 0 or 1)."
            )
        return [int(v) if v.is_integer() else v for v in distinct]
    words = sorted({str(v) for v in known})
    lowered = sorted({w.lower() for w in words})
    if set(lowered) <= YES | NO:  # Yes, yes and YES are one answer
        words = lowered
    if len(words) > 2 and are_dates(words):
        raise MedfmError(
            f"target {name!r} holds dates; derive a label from them (for instance event within a year: 0 "
            "or 1)."
        )
    if len(words) > MAX_CLASSES:
        raise MedfmError(
            f"target {name!r} has {len(words)} different values ({some(words)}): too many for classes. "
            "Group them, or ask "
            f"for one against the rest with --target {name}=VALUE."
        )
    return words


def infinite(name: str) -> str:
    return f"target {name!r} holds infinite values; correct them or leave them blank (unknown)."


def are_dates(words: list[str]) -> bool:
    if not all(any(c.isdigit() for c in w) and any(c in w for c in "-/.:") for w in words):
        return False
    return bool(pd.to_datetime(pd.Series(words), errors="coerce", format="mixed").notna().mean() > 0.9)


def _binary(name: str, values: pd.Series) -> tuple[np.ndarray, list[str]]:
    """0, 1 and NaN of one column, and a note where the positive value had to be chosen."""
    distinct = _distinct(name, values)
    words = [str(v).strip().lower() for v in distinct]
    known = values.notna().to_numpy()
    y = np.full(len(values), np.nan)
    plain = all(w in YES | NO for w in words)
    if plain:
        y[known] = [float(str(v).strip().lower() in YES) for v in values[known]]
    if len(distinct) < 2 or (plain and len(np.unique(y[known])) < 2):
        raise MedfmError(
            f"target {name!r} has one class only (every known row is {distinct[0]!r}): there is nothing "
            "to learn."
        )
    if plain:
        return y, []
    if len(distinct) > 2:
        raise MedfmError(
            f"target {name!r} has {len(distinct)} values ({some([str(d) for d in distinct])}), so it is "
            "not binary; use "
            f"--task multiclass, or ask for one against the rest with --target {name}=VALUE."
        )
    positive = distinct[1]
    text = values.map(as_text)
    y[known] = (text[known] == str(positive)).to_numpy(float)
    other = f"{name}={distinct[0]}"
    return y, [
        f"target {name!r}: {positive!r} counts as positive, {distinct[0]!r} as negative (--target {other} "
        "for the reverse)."
    ]


def _multiclass(name: str, values: pd.Series, distinct: list[Any]) -> tuple[Task, np.ndarray]:
    if len(distinct) < 2:
        raise MedfmError(
            f"target {name!r} has one class only (every known row is {distinct[0]!r}): there is nothing "
            "to learn."
        )
    classes = [str(d) for d in distinct]
    text = values.map(as_text)
    y = np.stack([(text == c).to_numpy(float) for c in classes], axis=1)
    y[values.isna().to_numpy()] = np.nan
    return Task("multiclass", (name,), tuple(classes)), y
