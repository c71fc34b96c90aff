"""Kinds of task that have their own results, sections and words; tasks of classes have those of the report itself."""

from __future__ import annotations

from typing import Any

from medfm.workflows import finetune_regression, finetune_survival

ANSWERS: dict[str, Any] = {"regression": finetune_regression, "survival": finetune_survival}
