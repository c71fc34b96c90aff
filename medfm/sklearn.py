"""Backbones as scikit-learn estimators: pipelines, ``cross_val_score``, grid search.

``X`` is an array ``[n, C, T]`` (with ``fs``), or n paths: a sequence, a Series, or a data frame with a
``path`` column. The backbone is frozen, so nothing of a test fold reaches it. Give patients as ``groups`` to
scikit-learn's splitters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from medfm.model import Model, load
from medfm.types import MedfmError

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
INNER_FOLDS = 3


class BackboneFeatures(TransformerMixin, BaseEstimator):
    """Frozen features of records: ``[n, F]``. ``backbone`` is a reference for ``medfm.load`` or a loaded
    ``Model``.

    ``fs`` (Hz) and ``channels`` belong to arrays. A record that cannot be read is an error here, not a row of
    NaN: a silent hole would shift what a metric means.
    """

    def __init__(
        self,
        backbone: str | Path | Model = "ecg-jepa-xs-sim",
        fs: float | None = None,
        channels: Sequence[str] | None = None,
        pool: str = "mean-std",
        batch_size: int = 32,
    ) -> None:
        self.backbone = backbone
        self.fs = fs
        self.channels = channels
        self.pool = pool
        self.batch_size = batch_size

    def fit(self, X: Any, y: Any = None) -> Self:
        """Load the backbone; nothing is learned from ``X``."""
        model = self._model()
        self.n_features_out_ = model.backbone.dim * (2 if self.pool == "mean-std" else 1)
        return self

    def transform(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "n_features_out_")
        if self.pool not in ("mean", "mean-std"):
            raise MedfmError(f"pool {self.pool!r} gives no feature vector; use mean or mean-std.")
        found = self._model().embed_records(X, self.fs, self.channels, self.batch_size, self.pool)  # type: ignore[arg-type]
        if found.failed:
            name, reason = found.failed[0]
            raise MedfmError(
                f"{len(found.failed)} record(s) cannot be read; drop them first. {name}: {reason}"
            )
        return found.z

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        check_is_fitted(self, "n_features_out_")
        return np.array([f"z{i:04d}" for i in range(self.n_features_out_)], dtype=object)

    def _model(self) -> Model:
        return self.backbone if isinstance(self.backbone, Model) else _loaded(str(self.backbone))


class BackboneClassifier(ClassifierMixin, BaseEstimator):
    """A logistic regression on standardised frozen features; one label a record (binary or multiclass).

    ``C`` None: the inverse strength is chosen by log loss on inner folds of the training records, which keep
    the ``groups`` given to ``fit`` (patients) together.
    """

    def __init__(
        self,
        backbone: str | Path | Model = "ecg-jepa-xs-sim",
        fs: float | None = None,
        channels: Sequence[str] | None = None,
        pool: str = "mean-std",
        C: float | None = None,
        batch_size: int = 32,
    ) -> None:
        self.backbone = backbone
        self.fs = fs
        self.channels = channels
        self.pool = pool
        self.C = C
        self.batch_size = batch_size

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """``y [n]``; ``groups [n]`` are patients."""
        y = np.asarray(y)
        if y.ndim != 1:
            raise MedfmError(
                f"y must hold one label a record, not {list(y.shape)}; use medfm finetune for "
                "several targets."
            )
        self.classes_, counts = np.unique(y, return_counts=True)
        if len(self.classes_) < 2:
            raise MedfmError(f"y has one class only ({self.classes_[0]!r}): there is nothing to learn.")
        self.features_ = BackboneFeatures(
            self.backbone, self.fs, self.channels, self.pool, self.batch_size
        ).fit(X)
        z = self.features_.transform(X)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=self.C or 1.0, max_iter=1000))
        if self.C is None:
            splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
            folds = splitter(INNER_FOLDS, shuffle=True, random_state=0)
            if counts.min() < INNER_FOLDS:
                raise MedfmError(
                    f"class {self.classes_[counts.argmin()]!r} has {counts.min()} record(s), too few "
                    "to choose C on "
                    f"{INNER_FOLDS} inner folds; set C (say 0.01)."
                )
            search = GridSearchCV(
                model,
                {"logisticregression__C": C_GRID},
                cv=folds,
                scoring="neg_log_loss",
                error_score="raise",
            )
            self.head_ = search.fit(z, y, groups=groups).best_estimator_
        else:
            self.head_ = model.fit(z, y)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """``[n, classes]`` in the order of ``classes_``."""
        check_is_fitted(self, "head_")
        return self.head_.predict_proba(self.features_.transform(X))

    def predict(self, X: Any) -> np.ndarray:
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


@lru_cache(maxsize=2)
def _loaded(ref: str) -> Model:
    """One load for the many clones that cross-validation makes."""
    return load(ref)
