"""The Python calls ``medfm.pretrain(...)``, ``medfm.finetune(...)`` and their kin: keywords to a resolved configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medfm.config.load import resolve_finetune, resolve_pretrain
from medfm.workflows.run_folder import Run


def _overrides(settings: dict[str, Any]) -> list[str]:
    """``trainer__steps=10`` or ``{"trainer.steps": 10}`` as ``key.path=value``."""
    import json

    return [f"{k.replace('__', '.')}={json.dumps(v)}" for k, v in settings.items()]


def pretrain(
    modality: str = "ecg",
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    method: str | None = None,
    preset: str | None = None,
    init: str | None = None,
    name: str | None = None,
    seed: int | None = None,
    output: str | Path | None = None,
    config: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Pretrain a backbone; without ``data``, on the modality's synthetic corpus. ``trainer__steps=10`` sets
    ``trainer.steps``. Returns a :class:`Run` (``path``, ``bundle``, ``report``, ``results``).

    >>> run = medfm.pretrain(modality="ecg", data="waves/", preset="small")  # doctest: +SKIP
    """
    from medfm.workflows.pretrain import pretrain as workflow

    sources = [str(data)] if isinstance(data, str | Path) else [str(d) for d in data or ()]
    flags: dict[str, Any] = {
        "data.sources": sources or None,
        "init": init,
        "name": name,
        "seed": seed,
        "output.dir": str(output) if output else None,
    }
    resolved = resolve_pretrain(
        modality,
        method=method,
        preset=preset,
        config=str(config) if config else None,
        flags={k: v for k, v in flags.items() if v is not None},
        overrides=_overrides(settings),
    )
    return workflow(resolved, resume=resume, overwrite=overwrite, progress=progress)


def finetune(
    table: str | Path,
    *,
    backbone: str,
    target: str | Sequence[str],
    task: str | None = None,
    strategy: str | None = None,
    patient: str | None = "patient_id",
    group: str | None = None,
    folds: int | None = None,
    repeats: int | str | None = None,
    name: str | None = None,
    seed: int | None = None,
    output: str | Path | None = None,
    config: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Fine-tune on a site's table with patient-level folds. ``finetune__bootstrap=200`` sets ``finetune.bootstrap``.

    >>> run = medfm.finetune("site.csv", backbone="ecg-jepa-xs-sim", target="afib")  # doctest: +SKIP
    """
    from medfm.workflows.finetune import finetune as workflow

    flags: dict[str, Any] = {
        "finetune.table": str(table),
        "finetune.backbone": str(backbone),
        "finetune.target": target.split(",") if isinstance(target, str) else list(target),
        "finetune.task": task,
        "finetune.strategy.name": strategy,
        "finetune.group": group,
        "finetune.folds": folds,
        "finetune.repeats": repeats,
        "name": name,
        "seed": seed,
        "output.dir": str(output) if output else None,
    }
    flags = {k: v for k, v in flags.items() if v is not None}
    flags["finetune.patient"] = patient
    resolved = resolve_finetune(
        config=str(config) if config else None, flags=flags, overrides=_overrides(settings)
    )
    return workflow(resolved, resume=resume, overwrite=overwrite, progress=progress)


def probe(
    table: str | Path, *, backbone: str, target: str | Sequence[str], **settings: Any
) -> dict[str, Any]:
    """Frozen embeddings, prototypes and logistic regression on patient folds: seconds, no training."""
    from medfm.workflows.probe import probe as workflow

    targets = target.split(",") if isinstance(target, str) else list(target)
    return workflow(str(table), backbone, targets, **settings)


def embed(source: str | Path, *, backbone: str, output: str | Path, **settings: Any) -> Path:
    """Embed a file, folder or table into ``.parquet``, ``.csv`` or ``.npz``."""
    from medfm.workflows.embed import embed as workflow

    return workflow(str(source), backbone, str(output), **settings)


def predict(source: str | Path, *, model: str | Path, output: str | Path, **settings: Any) -> Path:
    """Predictions of a fine-tuned run or bundle, one row a record, as CSV."""
    from medfm.workflows.predict import predict as workflow

    return workflow(str(source), str(model), str(output), **settings)


def reconstruct(
    source: str | Path, *, backbone: str | Path, output: str | Path, **settings: Any
) -> dict[str, Any]:
    """Synthesise missing MRI sequences of a folder or table of subjects; what was made, and how it compares."""
    from medfm.workflows.reconstruct import reconstruct as workflow

    return workflow(str(source), str(backbone), str(output), **settings)


def dedup(source: str | Path, *, output: str | Path = "keep.csv", **settings: Any) -> dict[str, Any]:
    """Find redundant pictures of a folder or table and write a list of those to keep, as CSV."""
    from medfm.workflows.dedup import dedup as workflow

    return workflow(str(source), str(output), **settings)


def slices(source: str | Path, *, output: str | Path = "slices.csv", **settings: Any) -> dict[str, Any]:
    """Cut a folder or table of CT volumes into a table of slices, as CSV; nothing is copied."""
    from medfm.workflows.slices import slices as workflow

    return workflow(str(source), str(output), **settings)
