"""Synthetic corpora as real files with a table of labels, whatever the modality; the arrays are in
:mod:`medfm.synthetic.ecg_corpus`, :mod:`medfm.synthetic.radiograph_corpus`, :mod:`medfm.synthetic.ct_corpus` and
:mod:`medfm.synthetic.mri_corpus`, and are named here as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.synthetic import ct_corpus, ecg_corpus, mri_corpus, radiograph_corpus
from medfm.synthetic.ct_corpus import ct_arrays, ct_chunks, ct_volumes
from medfm.synthetic.draws import Draws
from medfm.synthetic.ecg_corpus import SITE_PREVALENCE, ecg_arrays, ecg_chunks, truth_columns
from medfm.synthetic.mri_corpus import mri_chunks, mri_volumes
from medfm.synthetic.radiograph_corpus import radiograph_arrays, radiograph_chunks
from medfm.types import ConfigError, MedfmError

__all__ = [
    "SITE_PREVALENCE",
    "ct_arrays",
    "ct_chunks",
    "ct_volumes",
    "ecg_arrays",
    "ecg_chunks",
    "mri_chunks",
    "mri_volumes",
    "radiograph_arrays",
    "radiograph_chunks",
    "truth_columns",
    "write_corpus",
]

SPLITS = ("train", "val", "test")
_SPLIT_STREAM = 14


@dataclass(frozen=True)
class Kind:
    """One modality's corpus. chunks: yields ``(records, labels)``, the records as an array ``[m, ...]`` or a list;
    writers: format -> writer of one record, the first format being the default; mix: changes to the prevalences that
    suit a site's small table; files: columns of the table for what a writer returns, one path or several (None: no file)."""

    chunks: Callable[..., Iterator[tuple[Any, pd.DataFrame]]]
    writers: Mapping[str, Callable[..., Path | tuple[Path | None, ...]]]
    mix: Mapping[str, float]
    files: tuple[str, ...] = ("path",)

    @property
    def options(self) -> list[str]:
        """What may be set beside what every corpus has."""
        common = {"patients", "seed", "records_per_patient", "start_subject", "chunk", "prevalence", "truths"}
        return [name for name in signature(self.chunks).parameters if name not in common]


KINDS: dict[str, Kind] = {
    "ecg": Kind(ecg_chunks, ecg_corpus.WRITERS, SITE_PREVALENCE),
    "xray": Kind(radiograph_chunks, radiograph_corpus.WRITERS, {}),
    "ct": Kind(ct_chunks, ct_corpus.WRITERS, {}, ("path", "label")),
    "mri": Kind(mri_chunks, mri_corpus.WRITERS, {}, mri_corpus.FILES),
}


def write_corpus(
    modality: str,
    patients: int,
    output: str | Path,
    seed: int = 1,
    format: str | None = None,
    records_per_patient: int = 1,
    *,
    prevalence: Mapping[str, float] | None = None,
    split: Sequence[float] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Path:
    """Write real files under ``output/records`` and ``output/table.csv``; return the table's path.

    ecg: WFDB (or edf, csv, dicom) files; options ``fs`` (Hz) and ``seconds``. xray: DICOM DX and CR; options ``size`` (pixels) and ``views`` (of PA, AP, LL).
    ct: NIfTI files (or dicom: a folder a scan), label maps under ``output/labels`` with their names in ``labels.json``;
    options ``spacing`` (mm), ``field``, ``thickness`` (mm), ``size`` (most voxels an axis) and, for dicom, ``faults``.
    mri: NIfTI files, one a sequence, in a folder a subject, and label maps; options ``spacing`` (mm), ``missing`` (share of
    the subjects that lack sequences), ``skull`` and ``noise``; the table has a column a sequence in the place of ``path``.

    The table has ``path`` (relative to it), ``patient_id, age, sex, device, site``, binary labels by criterion
    (``afib``, ``lbbb``, ... or ``effusion``, ``nodule``, ...), the measured numbers behind them and ``cond_*``; with
    ``split`` (shares of train, val, test) a ``split`` column by patient; radiographs also have ``view`` and
    ``box_*``, CT scans ``label``, ``phase`` and ``volume_<organ>_ml``. ``prevalence`` changes the mix; ``progress(done, all)`` is called after every chunk. The table is
    written last, so a folder with a table is complete.

    Raises ConfigError for an unknown modality, format, option or share, MedfmError for a folder that holds a corpus
    already (without ``overwrite``) or cannot be written.
    """
    if modality == "ct_slice":
        raise ConfigError(
            "CT slices are cut from volumes: medfm data synthesize ct, then medfm data slices OUTPUT/table.csv."
        )
    if modality not in KINDS:
        raise ConfigError(f"no synthetic corpus for modality {modality!r}; known: {', '.join(KINDS)}.")
    kind = KINDS[modality]
    format = format or next(iter(kind.writers))
    if format not in kind.writers:
        raise ConfigError(
            f"a synthetic {modality} corpus is not written as {format!r}; formats: {', '.join(kind.writers)}."
        )
    if unknown := sorted(set(options) - set(kind.options)):
        raise ConfigError(
            f"a synthetic {modality} corpus has no option {unknown[0]!r}; options: {', '.join(kind.options)}."
        )
    if patients < 1 or records_per_patient < 1:
        raise ConfigError("a synthetic corpus needs at least one patient and one record a patient.")
    if split is not None and (len(split) != 3 or min(split) < 0 or abs(sum(split) - 1) > 1e-6):
        raise ConfigError(f"split {tuple(split)}: give three shares (train, val, test) that add up to 1.")
    output = Path(output)
    table = output / "table.csv"
    if table.exists() and not overwrite:
        raise MedfmError(f"{output} holds a corpus already; choose another folder, or overwrite it.")
    chunks = kind.chunks(
        patients,
        seed,
        records_per_patient=records_per_patient,
        prevalence={**kind.mix, **(prevalence or {})},
        **options,
    )
    try:
        (output / "records").mkdir(parents=True, exist_ok=True)
        table.unlink(missing_ok=True)
        frame = _write_records(
            chunks, kind, kind.writers[format], output, options, patients * records_per_patient, progress
        )
        if split is not None:
            lot = Draws([(seed, _SPLIT_STREAM, p) for p in range(patients)], 1).pick(split)
            frame.insert(3, "split", np.repeat(np.array(SPLITS)[lot], records_per_patient))
        unfinished = table.with_suffix(".part")
        frame.to_csv(unfinished, index=False)
        unfinished.replace(table)
    except OSError as error:
        raise MedfmError(
            f"{output}: cannot be written ({error.strerror or error}). Choose a folder with room and rights."
        ) from error
    return table


def _write_records(
    chunks: Iterator[tuple[Any, pd.DataFrame]],
    kind: Kind,
    write: Callable[..., Path | tuple[Path | None, ...]],
    output: Path,
    options: Mapping[str, Any],
    total: int,
    progress: Callable[[int, int], None] | None,
) -> pd.DataFrame:
    frames: list[pd.DataFrame] = []
    for x, labels in chunks:
        written = [write(output, row, record, **options) for row, record in zip(labels.itertuples(), x)]
        rows = [paths if isinstance(paths, tuple) else (paths,) for paths in written]
        for place, (name, paths) in enumerate(zip(kind.files, zip(*rows))):
            labels.insert(place, name, [p and p.relative_to(output).as_posix() for p in paths])
        frames.append(labels)
        if progress is not None:
            progress(sum(map(len, frames)), total)
    return pd.concat(frames, ignore_index=True)
