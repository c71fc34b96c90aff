"""Splits by patient: a patient never stands on two sides, and every fold has both classes or says why not.

``y`` is float ``[n]`` or ``[n, K]`` with NaN for unknown: one 0/1 column a target (binary, multilabel),
one-hot columns or one column of class numbers (multiclass). Folds are arrays of test rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from medfm.types import MedfmError

Task = Literal["binary", "multiclass", "multilabel"]
ATTEMPTS = 20
SKLEARN_PATIENTS = 1000  # above, its Python loop over groups takes a second a split, for the same balance


def patient_folds(
    y: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    folds: int,
    seed: int,
    task: Task = "binary",
    *,
    targets: Sequence[str] | None = None,
    strict: bool = True,
) -> list[np.ndarray]:
    """Test rows of ``folds`` patient-grouped stratified folds; together they hold every row once.

    Binary and multiclass: scikit-learn's ``StratifiedGroupKFold``. Multilabel, very many patients, or a
    split that left a class out of a fold: iterative stratification (Sechidis 2011) over patients.
    ``strict`` raises :class:`MedfmError` when a target has one class only or its rarer class stands in
    fewer patients than there are folds; otherwise (inner folds) such a target is simply not in every fold.
    Fewer patients than folds is always an error. When patients suffice and a class is still missing from a
    fold, a warning names both."""
    index, n_patients = _codes(patients)
    classes, names = _classes(y, task, targets)
    if len(index) != len(classes):
        raise MedfmError(
            f"{len(classes)} rows of labels but {len(index)} patients: give each record its patient."
        )
    if folds < 2:
        raise MedfmError(f"folds={folds}: cross-validation needs at least 2 folds.")
    if n_patients < folds:
        remedy = f"use --folds {n_patients} or fewer" if n_patients > 1 else "at least 2 patients are needed"
        raise MedfmError(f"{n_patients} patient(s) cannot fill {folds} folds: {remedy}.")
    present = _per_patient(classes, index, n_patients)
    if strict:
        _require_patients(present > 0, names, folds)
    names.append("any label")
    wanted = np.r_[(present > 0).sum(0) >= folds, True]
    best, missing = np.zeros(len(index), dtype=int), np.ones((folds, len(names)), dtype=bool)
    for labels in _candidates(classes, present, index, folds, seed, sklearn=task != "multilabel"):
        lost = _missing(classes, labels, folds) & wanted
        if lost.sum() < missing.sum():
            best, missing = labels, lost
        if not lost.any():
            break
    if strict and missing.any():
        fold, column = np.argwhere(missing)[0]
        warnings.warn(
            f"fold {fold + 1} has no record with {names[column]}: its patients could not be spread over "
            f"{folds} folds. That fold does not count for this target; fewer folds may mend it.",
            stacklevel=2,
        )
    return [np.flatnonzero(best == fold) for fold in range(folds)]


def group_folds(
    groups: Sequence[Any] | np.ndarray, patients: Sequence[Any] | np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Leave one group (site, device) out: group name -> its rows, in sorted order of the names.

    Raises :class:`MedfmError` with a blank group, fewer than two groups, or a patient seen in two groups,
    whose records would stand on both sides."""
    values = np.asarray(groups, dtype=object)
    blank = np.array([v is None or v != v or str(v).strip() == "" for v in values], dtype=bool)
    if blank.any():
        raise MedfmError(
            f"{int(blank.sum())} row(s) have no group: fill in the group column or drop those rows."
        )
    text = values.astype(str)
    names = np.unique(text)
    if len(names) < 2:
        raise MedfmError(
            f"only one group ({names[0] if len(names) else 'none'}): leaving one out needs at least two."
        )
    if patients is not None:
        index, n_patients = _codes(patients)
        pairs = np.unique(np.stack([index, np.unique(text, return_inverse=True)[1].ravel()]), axis=1)
        crossing = int((np.bincount(pairs[0], minlength=n_patients) > 1).sum())
        if crossing:
            raise MedfmError(
                f"{crossing} patient(s) stand in more than one group, so leaving a group out would test on "
                "patients seen in training. Give each patient one group or drop the smaller part."
            )
    return {str(name): np.flatnonzero(text == name) for name in names}


def repeats_auto(n_patients: int) -> int:
    """Repeats of the whole cross-validation: 10 below 200 patients, 5 below 1,000, else 1."""
    return 10 if n_patients < 200 else 5 if n_patients < 1000 else 1


def split_patients(
    patients: Sequence[Any] | np.ndarray,
    fractions: Sequence[float],
    seed: int,
    y: np.ndarray | None = None,
    task: Task = "multilabel",
) -> list[np.ndarray]:
    """Rows of each part, about ``fractions`` (normalised to sum 1) of the patients; with ``y`` stratified.

    Every part gets at least one patient; fewer patients than parts is a :class:`MedfmError`.
    """
    share = np.asarray(fractions, dtype=float)
    if share.size < 2 or not (share > 0).all():
        raise MedfmError(
            f"fractions {list(fractions)}: give at least two positive shares, such as 0.8 and 0.2."
        )
    index, n_patients = _codes(patients)
    if n_patients < share.size:
        raise MedfmError(f"{n_patients} patient(s) cannot fill {share.size} parts: ask for fewer parts.")
    rng = np.random.default_rng(seed)
    share = share / share.sum()
    if y is None:
        counts = np.diff(np.r_[0, np.round(np.cumsum(share) * n_patients)]).astype(int)
        part = np.repeat(np.arange(share.size), counts)[np.argsort(rng.permutation(n_patients))]
    else:
        # by patients, not records: a part is promised a share of the patients
        present = (_per_patient(_classes(y, task, None)[0], index, n_patients) > 0).astype(float)
        part = iterative_stratification(present, np.ones(n_patients, dtype=int), share, rng)
    part = _fill_empty(part, share.size, rng)
    return [np.flatnonzero(part[index] == k) for k in range(share.size)]


def iterative_stratification(
    present: np.ndarray, sizes: np.ndarray, share: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Part ``[P]`` of each patient from label counts ``present [P, L]``, record counts ``sizes [P]``,
    ``share [F]``.

    Sechidis, Tsoumakas and Vlahavas (2011), with patients in place of examples: the label with the fewest
    patients left is dealt first, its heaviest patients first, each to the part that lacks that label most,
    then to the one that lacks records most, then by lot. A part's wish is its share of each label's total.
    """
    n_patients, n_labels = present.shape
    wish = share[:, None] * present.sum(0)
    room = share * sizes.sum()
    part = np.full(n_patients, -1)
    has = present > 0
    lot = rng.random((n_patients, len(share)))
    open_ = np.ones(n_patients, dtype=bool)
    while open_.any():
        left = has[open_].sum(0) if n_labels else np.zeros(0, dtype=int)
        if left.any():
            label = int(np.argmin(np.where(left > 0, left, n_patients + 1)))
            rows = np.flatnonzero(open_ & has[:, label])
            rows = rows[np.lexsort((lot[rows, 0], -present[rows, label]))]
        else:  # every label unknown: only the number of records is left to balance
            label = -1
            rows = np.flatnonzero(open_)
            rows = rows[np.lexsort((lot[rows, 0], -sizes[rows]))]
        for row in rows:
            need = wish[:, label] if label >= 0 else room
            chosen = int(np.lexsort((lot[row], room, np.round(need, 9)))[-1])
            part[row] = chosen
            wish[chosen] -= present[row]
            room[chosen] -= sizes[row]
        open_[rows] = False
    return part


def _codes(patients: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, int]:
    values = np.asarray(patients)
    if any(v is None or v != v for v in values.tolist()):
        raise MedfmError("a patient id is blank: fill it in or drop the row.")
    names, index = np.unique(values.astype(str), return_inverse=True)
    return index.ravel(), len(names)


def _classes(y: np.ndarray, task: Task, targets: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """Bool ``[n, L]``, one column a class that must stand in every fold, and its name for messages."""
    y = np.asarray(y, dtype=float)
    y = y[:, None] if y.ndim == 1 else y
    if task == "multiclass":
        if y.shape[1] == 1:
            values = np.unique(y[~np.isnan(y)])
            names = list(targets) if targets and len(targets) == len(values) else [f"{v:g}" for v in values]
            return y == values, [f"class {n}" for n in names]
        return y == 1, [f"class {n}" for n in (targets or range(y.shape[1]))]
    if not np.isin(y[~np.isnan(y)], (0, 1)).all():
        raise MedfmError(f"a {task} target must hold 0, 1 or blank; other values were found.")
    names = list(targets) if targets else [f"target {k + 1}" for k in range(y.shape[1])]
    return np.concatenate([y == 1, y == 0], axis=1), [f"{n} = 1" for n in names] + [f"{n} = 0" for n in names]


def _per_patient(classes: np.ndarray, index: np.ndarray, n_patients: int) -> np.ndarray:
    """Records of each class a patient has: ``[P, L]``."""
    return np.stack([np.bincount(index, weights=c, minlength=n_patients) for c in classes.T], axis=1)


def _require_patients(has: np.ndarray, names: list[str], folds: int) -> None:
    """Each class in at least as many patients as folds, or a sentence with the remedy."""
    counts = has.sum(0)
    if len(names) == 1 or not counts.any():
        raise MedfmError("the target has fewer than two classes: there is nothing to tell apart.")
    worst = int(np.argmin(counts))
    if counts[worst] == 0:
        raise MedfmError(
            f"no record has {names[worst]}: a target with one class only cannot be learned or scored."
        )
    if counts[worst] < folds:
        remedy = f"use --folds {counts[worst]} or fewer, or " if counts[worst] >= 2 else ""
        raise MedfmError(
            f"{names[worst]} stands in {counts[worst]} patient(s), fewer than {folds} folds: {remedy}"
            "gather more such patients or drop the target."
        )


def _candidates(
    classes: np.ndarray, present: np.ndarray, index: np.ndarray, folds: int, seed: int, *, sklearn: bool
) -> Iterator[np.ndarray]:
    """Fold of each row, proposal by proposal: scikit-learn's if asked for, then iterative ones."""
    if sklearn and len(present) <= SKLEARN_PATIENTS:
        yield _sklearn_folds(classes, index, folds, seed)
    sizes = np.bincount(index, minlength=len(present))
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        yield iterative_stratification(present, sizes, np.full(folds, 1 / folds), rng)[index]


def _sklearn_folds(classes: np.ndarray, index: np.ndarray, folds: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold

    kind = np.where(classes.any(1), classes.argmax(1), classes.shape[1])  # unknown is a class of its own here
    labels = np.zeros(len(index), dtype=int)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        try:
            for fold, (_, test) in enumerate(splitter.split(np.zeros(len(index)), kind, index)):
                labels[test] = fold
        except ValueError:  # every class smaller than the folds (inner folds of a rare target)
            return np.zeros(len(index), dtype=int)
    return labels


def _missing(classes: np.ndarray, labels: np.ndarray, folds: int) -> np.ndarray:
    """Bool ``[F, L + 1]``: classes that a fold lacks; the last column marks a fold without any record."""
    seen = np.stack([np.r_[classes[labels == f].any(0), (labels == f).any()] for f in range(folds)])
    return ~seen


def _fill_empty(part: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """A part that rounding left empty takes one patient from the fullest."""
    for k in range(parts):
        if not (part == k).any():
            fullest = np.bincount(part, minlength=parts).argmax()
            part[rng.choice(np.flatnonzero(part == fullest))] = k
    return part
