"""Redundant pictures of a folder or table found, and a keep list written: nothing is copied, moved or deleted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm.config.modalities import MODALITIES
from medfm.data import dedup as pictures
from medfm.data.catalog import resolve_source
from medfm.data.image_store import ingest_images
from medfm.data.manifest import Manifest, as_identifier
from medfm.data.reduction import (
    Looks,
    Near,
    Reduction,
    by_embedding,
    by_hash,
    known_patients,
    looks,
    select,
    series_column,
    units_of,
)
from medfm.data.store import CHUNK
from medfm.data.tables import is_table, read_table
from medfm.paths import seen_from, written_whole
from medfm.types import ConfigError, Finding
from medfm.workflows.progress import progress as progress_bar
from medfm.workflows.run_folder import writing

# Enough for 9 x 8 and 32 x 32 cells of the whole picture; of a slice, of 358 mm about the body's middle.
HASHED: dict[str, dict[str, Any]] = {
    "xray": {"size": (64, 64), "fit": "stretch"},
    "ct_slice": {"size": (64, 64), "spacing": 5.6},
}
# Of embeddings; ours. With the quick simulated backbone it is a film moved by 2 % of its width or turned by 5 degrees, and
# one in 500 pairs of films of different simulated patients is nearer.
DISTANCE = 0.1
SCANNED = ("windowed",)  # a column of zeros and ones that `medfm data scan` writes, and no label
COPY, LOOK_ALIKE, UNREADABLE = "copy", "look-alike", "unreadable"


def dedup(
    source: str | Path,
    output: str | Path = "keep.csv",
    *,
    modality: str = "xray",
    by: str = "hash",
    distance: float | None = None,
    backbone: str | None = None,
    patient: str | None = "patient_id",
    target: Sequence[str] = (),
    store: str | Path | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the keep list ``output`` (the table's rows that stay, or path and patient of a folder's) and beside it
    ``*.dropped.csv``: what was left out, why, and which kept picture it repeats.

    Dropped are copies of one film, whoever's, and within one patient (one volume, series or study where a column says
    so) look-alikes: hashes that differ in at most ``distance`` of 64 bits (6, as Wolf et al., arXiv 2410.14524), or with
    ``by="embedding"`` embeddings of ``backbone`` within a cosine ``distance`` of 0.1, their mean over all pictures taken
    off (ours; a handful of pictures has no mean to speak of, and few of them are dropped). A look-alike with other labels
    stays. Labels are the ``target`` columns, or every column of zeros and ones; of copies the one with most labels stays.

    Returns the numbers ``pictures, kept, copies, look_alikes, unreadable, ...``, the ``findings``, and where the two
    lists lie (``keep``, ``dropped``). Raises :class:`ConfigError` for a modality without pictures, an output that
    exists, or settings that do not go together.
    """
    most = _check(modality, by, distance, backbone)
    written, beside = _outputs(output, overwrite)
    folder = written.resolve().parent
    whole, _, _ = resolve_source(str(source), modality=MODALITIES[modality].load()(), patient=patient)
    if written.resolve() == Path(whole.source).resolve():
        raise ConfigError(f"--output {output} is the table itself; choose another name.")
    whole.check()
    table, words = _columns(whole), _labels(_columns(whole), target, str(source))
    found, near, stored = _look(whole, modality, by, most, backbone, store, jobs, progress)
    manifest = whole.take(stored.kept)
    table, words = (f.iloc[stored.kept].reset_index(drop=True) for f in (table, words))
    units, pairs = units_of(manifest), pictures.copies(*found)
    said = words.to_numpy(str)
    order = np.argsort(-(said != "").sum(axis=1), kind="stable")
    within = ["\x1f".join([unit, *row]) for unit, row in zip(units, said)]
    chosen = select(within, pairs, near, order)
    regardless = select(units, pairs, near, order)
    paths = np.array([seen_from(p, folder) for p in manifest.paths])
    dropped = _dropped(manifest, chosen, found, words, paths)
    aside = [(seen_from(p, folder), UNREADABLE, why.removeprefix(f"{p}: ")) for _, p, why in stored.failed]
    with writing(written):
        with written_whole(beside) as part:
            unread = pd.DataFrame(aside, columns=["path", "reason", "note"])
            pd.concat([dropped, unread]).to_csv(part, index=False)
        with written_whole(written) as part:
            table.assign(path=paths).iloc[chosen.kept].to_csv(part, index=False)
    copied, known = int(chosen.copied.sum()), known_patients(manifest).notna()
    return {
        "pictures": len(manifest),
        "kept": len(chosen.kept),
        "copies": copied,
        "look_alikes": len(dropped) - copied,
        "unreadable": len(aside),
        "kept_for_labels": max(0, len(chosen.kept) - len(regardless.kept)),
        "by": by,
        "distance": most,
        "within": series_column(manifest) or (patient if known.any() else None),
        "without_patient": int((~known).sum()),
        "labels": list(words.columns),
        "findings": [vars(f) for f in _findings(manifest, chosen, dropped)],
        "keep": written,
        "dropped": beside,
    }


def _check(modality: str, by: str, distance: float | None, backbone: str | None) -> float:
    """The distance to use, of settings that go together."""
    if modality not in MODALITIES:
        raise ConfigError(f"--modality {modality} is unknown; use {', '.join(MODALITIES)}.")
    if MODALITIES[modality].load().rank != 2:
        raise ConfigError(
            f"--modality {modality}: redundant records are found among pictures ({', '.join(HASHED)}). Of signals and "
            "volumes none is called redundant: give the folder or table to medfm pretrain as it is."
        )
    if by not in ("hash", "embedding"):
        raise ConfigError(f"--by {by} is unknown; use hash or embedding.")
    if by == "hash" and backbone:
        raise ConfigError("--backbone goes with --by embedding; leave it out, or add that.")
    if by == "embedding" and not backbone:
        raise ConfigError("--by embedding needs --backbone REF; medfm hub list shows those that there are.")
    if distance is None:
        return pictures.NEAR if by == "hash" else DISTANCE
    if by == "hash" and not (0 <= distance < 64 and distance == int(distance)):
        raise ConfigError(f"--distance {distance:g}: give a whole number of bits, 0 to 63 (6 by default).")
    if by == "embedding" and not 0 <= distance < 1:
        raise ConfigError(f"--distance {distance:g}: give a cosine distance from 0 to below 1.")
    return int(distance) if by == "hash" else float(distance)


def _outputs(output: str | Path, overwrite: bool) -> tuple[Path, Path]:
    written = Path(output).expanduser()
    if written.suffix.lower() != ".csv":
        raise ConfigError(f"--output {output}: the name must end in .csv.")
    beside = written.with_suffix(".dropped.csv")
    for path in (written, beside):
        if path.is_dir() or (path.exists() and not overwrite):
            raise ConfigError(f"--output {path} exists already; choose another name, or use --overwrite.")
    return written, beside


def _columns(manifest: Manifest) -> pd.DataFrame:
    """What the keep list says of every row: the table as the user wrote it, and ``patient_id`` where it is known."""
    read_from = Path(manifest.source)
    if is_table(read_from) and read_from.is_file():
        frame = read_table(read_from)
    else:
        frame = manifest.frame.drop(columns=["patient", "record"])
    known = known_patients(manifest)
    if "patient_id" not in frame and known.notna().any():
        frame.insert(1, "patient_id", known)
    return frame


def _labels(frame: pd.DataFrame, target: Sequence[str], source: str) -> pd.DataFrame:
    """Label columns as text, empty where unknown."""
    if missing := [c for c in target if c not in frame]:
        raise ConfigError(f"--target: {source} has no column {', '.join(missing)}.")
    if not target:
        numbers = {c: pd.to_numeric(frame[c], errors="coerce") for c in frame if c not in SCANNED}
        target = [
            c
            for c, values in numbers.items()
            if values.notna().any() and values.dropna().isin([0, 1]).all() and _blank(frame[c], values)
        ]
    return pd.DataFrame({c: as_identifier(frame[c]).fillna("") for c in target}, index=frame.index)


def _blank(column: pd.Series, values: pd.Series) -> bool:
    """What is no number there is a blank, not a word."""
    return bool(as_identifier(column)[values.isna()].isna().all())


def _look(
    manifest: Manifest,
    modality: str,
    by: str,
    distance: float,
    backbone: str | None,
    root: str | Path | None,
    jobs: int,
    show: bool,
) -> tuple[Looks, Near, Any]:
    """Pictures read once into the store; what they are compared by; and when two of one unit are near."""
    entry = MODALITIES[modality]
    meaning = entry.load()(**entry.settings(**HASHED[modality]).model_dump(exclude={"name"}))
    if by == "embedding":
        from medfm.hub.bundle import load_bundle
        from medfm.hub.resolve import resolve

        assert backbone
        bundle = load_bundle(resolve(backbone))
        meaning, network = bundle.modality(), bundle.build()
        if meaning.name != modality:
            raise ConfigError(f"--backbone {backbone} is for {meaning.name}, and these are {modality}.")
    with progress_bar(show, "reading pictures", len(manifest), "pictures") as bar:
        stored = ingest_images(
            manifest,
            meaning,
            Path(root) if root else None,
            jobs,
            lambda done, _: bar.update(min(done * CHUNK, len(manifest))),
        )
    found = looks(stored)
    if by == "hash":
        return found, by_hash(found.codes, int(distance)), stored
    from medfm.finetuning.records import embeddings
    from medfm.workflows.kinds import kind_of

    records = kind_of(meaning).reading.records(stored, meaning)
    with progress_bar(show, "embedding", len(stored), "pictures") as bar:
        z = embeddings(network, records, np.arange(len(stored)), pooling="mean", progress=bar.update)
    return found, by_embedding(z, distance), stored


def _dropped(
    manifest: Manifest, chosen: Reduction, found: Looks, labels: pd.DataFrame, paths: np.ndarray
) -> pd.DataFrame:
    """One row a dropped picture: why, which kept picture it repeats, and how near it is."""
    rows = chosen.dropped
    kept = chosen.keeper[rows]
    patients = known_patients(manifest).fillna("").to_numpy(str)
    here, there = labels.to_numpy(str)[rows], labels.to_numpy(str)[kept]
    clash = (here != there) & (here != "") & (there != "")
    differ = [
        "; ".join(f"{labels.columns[c]}: {a[c]} here, {b[c]} there" for c in np.flatnonzero(where))
        for a, b, where in zip(here, there, clash)
    ]
    return pd.DataFrame(
        {
            "path": paths[rows],
            "patient_id": patients[rows],
            **({"split": manifest.frame["split"].iloc[rows].to_numpy()} if "split" in manifest.frame else {}),
            "reason": np.where(chosen.copied[rows], COPY, LOOK_ALIKE),
            "repeats": paths[kept],
            "repeats_patient_id": patients[kept],
            "bits": pd.array(pictures.hamming(found.codes[rows], found.codes[kept]), "Int64"),
            "correlation": pictures.alike(found.small, np.stack([rows, kept], axis=1)).round(4),
            "contradicts": differ,
        }
    )


def _findings(manifest: Manifest, chosen: Reduction, dropped: pd.DataFrame) -> list[Finding]:
    """What a person should look at: copies that disagree on labels, on the patient, or on the split."""
    apart = (dropped["patient_id"] != dropped["repeats_patient_id"]) & (dropped["patient_id"] != "")
    split = manifest.frame.get("split", pd.Series("", manifest.frame.index)).fillna("").to_numpy(str)
    counts = {
        "copies-contradict": (
            (dropped["contradicts"] != "").sum(),
            "of the dropped copies have other labels than the picture that was kept; settle which are right (column "
            "contradicts).",
        ),
        "copies-across-patients": (
            (apart & (dropped["repeats_patient_id"] != "")).sum(),
            "of the dropped copies have another patient id than the picture that was kept; one person may stand under two "
            "ids (columns patient_id and repeats_patient_id).",
        ),
        "copies-across-splits": (
            (split[chosen.dropped] != split[chosen.keeper[chosen.dropped]]).sum(),
            "of the dropped copies stand in another split than the picture that was kept (column split).",
        ),
    }
    return [Finding(code, f"{count} {words}") for code, (count, words) in counts.items() if count]
