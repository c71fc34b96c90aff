"""Discrimination and threshold metrics that know what an unknown label is, and that bootstrap fast.

Legend: n rows (records), K targets, B resamples. ``y`` holds 0, 1 or NaN (unknown: the row is left out for
that target, never taken for a negative); ``p`` is any score that rises with the positive class. ``weights``
is ``[n]`` (one answer) or ``[n, B]`` (one column a bootstrap resample, usually the patient's multiplicity;
answers ``[B]``). A metric that is undefined (one class has no weight) is NaN, so that the caller must
decide."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medfm.types import MedfmError

Metric = Callable[..., np.ndarray]


def known(
    y: np.ndarray, p: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with a known label: bool labels ``[m]``, scores ``[m]`` and weights ``[m, B]``.

    Raises :class:`MedfmError` for labels other than 0, 1, NaN and for a missing score of a labelled row.
    """
    y = np.asarray(y, dtype=float).ravel()
    p = np.asarray(p, dtype=float).ravel()
    if y.shape != p.shape:
        raise MedfmError(f"{y.size} labels but {p.size} predictions: give one prediction a row.")
    rows = ~np.isnan(y)
    y, p = y[rows], p[rows]
    if not np.isin(y, (0.0, 1.0)).all():
        raise MedfmError("labels must be 0, 1 or blank (unknown); encode classes as one column each.")
    if np.isnan(p).any():
        raise MedfmError(
            f"{int(np.isnan(p).sum())} labelled row(s) have no prediction; predict them or blank their label."
        )
    if weights is None:
        return y == 1, p, np.ones((y.size, 1))
    weights = np.asarray(weights)
    weights = weights if rows.all() else weights[rows]
    weights = weights if weights.dtype.kind == "f" else weights.astype(float)
    return y == 1, p, weights[:, None] if weights.ndim == 1 else weights


def _answer(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """A scalar for no or ``[n]`` weights, ``[B]`` for ``[n, B]``."""
    return values[0] if weights is None or np.ndim(weights) == 1 else values


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b > 0, a / np.where(b > 0, b, 1), np.nan)


def _above(sorted_scores: np.ndarray, at: np.ndarray, side: str) -> np.ndarray:
    """How many of ``sorted_scores`` (ascending) are >= (side 'left') or > (side 'right') each of ``at``."""
    return len(sorted_scores) - np.searchsorted(sorted_scores, at, side=side)  # type: ignore[call-overload]


def _tops(weights: np.ndarray) -> np.ndarray:
    """``[m + 1, B]``: row j is the weight of the j highest scores, from weights by ascending score."""
    total = np.zeros((len(weights) + 1, weights.shape[1]), dtype=weights.dtype)
    np.cumsum(weights[::-1], axis=0, out=total[1:])
    return total


def rank_metrics(
    y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision in one pass (they share the sort and the sums). See :func:`auroc`,
    :func:`auprc`."""
    positive, score, w = known(y, p, weights)
    order = np.argsort(score[positive], kind="stable")
    pos, w_pos = score[positive][order], w[positive][order]
    order = np.argsort(score[~positive], kind="stable")
    neg, w_neg = score[~positive][order], w[~positive][order]
    top_pos, top_neg = _tops(w_pos), _tops(w_neg)
    # top_*[j] is the weight of the j highest rows; a positive outranks all negatives but those at or over it.
    at, over = _above(neg, pos, "left"), _above(neg, pos, "right")
    false_at = top_neg[at]
    wrong = np.einsum("ib,ib->b", w_pos, false_at)
    if not np.array_equal(at, over):  # a tie counts one half
        wrong = (wrong + np.einsum("ib,ib->b", w_pos, top_neg[over])) / 2
    n_pos, n_neg = top_pos[-1], top_neg[-1]
    area = _divide(n_pos * n_neg - wrong, n_pos * n_neg)
    true_at = top_pos[_above(pos, pos, "left")]
    reached = true_at + false_at
    precision = true_at / np.where(reached > 0, reached, 1)
    average = _divide(np.einsum("ib,ib->b", w_pos, precision), n_pos)
    average = np.where(n_neg > 0, average, np.nan)
    return _answer(area, weights), _answer(average, weights)


def auroc(y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve: probability that a positive outranks a negative, a tie counting one half."""
    return rank_metrics(y, p, weights)[0]


def auprc(y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision, sum of (R_k - R_{k-1}) P_k over distinct thresholds (no interpolation). NaN with
    one class."""
    return rank_metrics(y, p, weights)[1]


def brier(y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean squared distance of probability and outcome (Brier 1950)."""
    positive, score, w = known(y, p, weights)
    return _answer(_divide(((score - positive) ** 2) @ w, w.sum(0)), weights)


def confusion(
    y: np.ndarray, p: np.ndarray, threshold: float, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Weighted true positives, false positives, false negatives, true negatives at ``p >= threshold``; each
    ``[B]``."""
    positive, score, w = known(y, p, weights)
    called = score >= threshold
    cells = (positive & called, ~positive & called, positive & ~called, ~positive & ~called)
    tp, fp, fn, tn = (c.astype(w.dtype) @ w for c in cells)
    return tp, fp, fn, tn


def sensitivity(
    y: np.ndarray, p: np.ndarray, threshold: float, weights: np.ndarray | None = None
) -> np.ndarray:
    tp, _, fn, _ = confusion(y, p, threshold, weights)
    return _answer(_divide(tp, tp + fn), weights)


def specificity(
    y: np.ndarray, p: np.ndarray, threshold: float, weights: np.ndarray | None = None
) -> np.ndarray:
    _, fp, _, tn = confusion(y, p, threshold, weights)
    return _answer(_divide(tn, tn + fp), weights)


def balanced_accuracy(
    y: np.ndarray, p: np.ndarray, threshold: float = 0.5, weights: np.ndarray | None = None
) -> np.ndarray:
    """Mean of sensitivity and specificity at ``p >= threshold``."""
    return (sensitivity(y, p, threshold, weights) + specificity(y, p, threshold, weights)) / 2


def f1(y: np.ndarray, p: np.ndarray, threshold: float = 0.5, weights: np.ndarray | None = None) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) at ``p >= threshold``."""
    tp, fp, fn, _ = confusion(y, p, threshold, weights)
    return _answer(_divide(2 * tp, 2 * tp + fp + fn), weights)


def roc_curve(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False positive rate, true positive rate and thresholds (``p >= threshold``), from (0, 0) at infinity
    to (1, 1)."""
    positive, score, _ = known(y, p, None)
    cuts = np.unique(score)[::-1]
    hits = _above(np.sort(score[positive]), cuts, "left")
    false = _above(np.sort(score[~positive]), cuts, "left")
    tpr = _divide(hits.astype(float), np.full(hits.shape, positive.sum()))
    fpr = _divide(false.astype(float), np.full(false.shape, (~positive).sum()))
    return np.r_[0.0, fpr], np.r_[0.0, tpr], np.r_[np.inf, cuts]


def pr_curve(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, precision and thresholds, by falling threshold (recall rises)."""
    positive, score, _ = known(y, p, None)
    cuts = np.unique(score)[::-1]
    hits = _above(np.sort(score[positive]), cuts, "left").astype(float)
    called = _above(np.sort(score), cuts, "left").astype(float)
    return _divide(hits, np.full(hits.shape, positive.sum())), _divide(hits, called), cuts


def threshold_at(
    y: np.ndarray, p: np.ndarray, *, sensitivity: float | None = None, specificity: float | None = None
) -> float:
    """The threshold that reaches one of the two and costs the other least. Choose it on inner folds, then
    freeze it.

    With ``sensitivity`` the highest threshold that still reaches it; with ``specificity`` the lowest. NaN
    with one class."""
    fpr, tpr, cuts = roc_curve(y, p)
    if sensitivity is not None:
        good = np.flatnonzero(tpr >= sensitivity - 1e-12)
        return float(cuts[good[0]]) if good.size and not np.isnan(fpr).any() else float("nan")
    if specificity is None:
        raise MedfmError("state the sensitivity or the specificity that the threshold must reach.")
    good = np.flatnonzero(1 - fpr >= specificity - 1e-12)
    return float(cuts[good[-1]]) if good.size and not np.isnan(tpr).any() else float("nan")


def sensitivity_at_specificity(y: np.ndarray, p: np.ndarray, specificity: float = 0.9) -> float:
    """Highest sensitivity among thresholds whose specificity, on these same rows, is at least
    ``specificity``.

    Chosen on the rows it is measured on: it describes a curve, not a threshold that could be deployed."""
    fpr, tpr, _ = roc_curve(y, p)
    return (
        float(np.max(np.where(1 - fpr >= specificity - 1e-12, tpr, 0)))
        if not np.isnan(fpr + tpr).any()
        else np.nan
    )


def specificity_at_sensitivity(y: np.ndarray, p: np.ndarray, sensitivity: float = 0.9) -> float:
    """Highest specificity among thresholds whose sensitivity, on these same rows, is at least
    ``sensitivity``."""
    fpr, tpr, _ = roc_curve(y, p)
    reached = np.where(tpr >= sensitivity - 1e-12, 1 - fpr, 0)
    return float(np.max(reached)) if not np.isnan(fpr + tpr).any() else np.nan


def per_target(
    metric: Metric, y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None, **arguments: float
) -> np.ndarray:
    """``metric`` for each column of ``y``, ``p`` ``[n, K]``: ``[K]`` or ``[K, B]``. Multiclass (one-hot):
    one against rest."""
    y, p = columns(y), columns(p)
    if y.shape != p.shape:
        raise MedfmError(
            f"labels are {list(y.shape)} but predictions {list(p.shape)}: give one column a target in both."
        )
    return np.stack([metric(y[:, k], p[:, k], weights=weights, **arguments) for k in range(y.shape[1])])


def macro(
    metric: Metric, y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None, **arguments: float
) -> np.ndarray:
    """Unweighted mean over the targets where ``metric`` is defined."""
    return mean_defined(per_target(metric, y, p, weights, **arguments))


def mean_defined(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean over the defined entries; NaN (without a warning) where none is."""
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0).sum(axis), defined.sum(axis))


def columns(a: np.ndarray) -> np.ndarray:
    """``[n]`` becomes ``[n, 1]``; floats."""
    a = np.asarray(a, dtype=a.dtype if getattr(a, "dtype", None) == np.float32 else float)
    return a[:, None] if a.ndim == 1 else a


def multiclass_balanced_accuracy(y: np.ndarray, p: np.ndarray) -> float:
    """Mean recall of the most probable class over the classes that occur; ``y`` one-hot ``[n, K]``, NaN
    rows left out."""
    rows = ~np.isnan(columns(y)).any(1)
    truth, called = columns(y)[rows].argmax(1), columns(p)[rows].argmax(1)
    return (
        float(np.mean([np.mean(called[truth == k] == k) for k in np.unique(truth)])) if rows.any() else np.nan
    )
