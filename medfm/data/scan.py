"""What lies in a folder or a table: every record read once, what was found said, a bad record set aside with
its reason.

The result writes the manifest that every other command takes. Records are read in parallel with joblib,
whose backend a user can switch.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm import formats
from medfm.data.manifest import Manifest
from medfm.data.rooms import room_of
from medfm.data.scan_pictures import Picture, inspect_picture, summary
from medfm.data.scan_subjects import SubjectRecord, inspect_subject, is_place, subject_summary
from medfm.data.scan_volumes import VolumeRecord, inspect_volume, volume_summary
from medfm.data.subject_table import Subject
from medfm.data.tables import is_table, read_table
from medfm.paths import seen_from, written_whole
from medfm.types import Finding, MedfmError

Progress = Callable[[int, int], None]
PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True)
class Record:
    """One readable record: what the file says, and what its modality made of it.

    amplitude: 0.5, 50 and 99.5 percentile of every present channel, in the modality's physical units.
    """

    path: str
    record: str
    format: str
    fs: float
    seconds: float
    file_channels: tuple[str, ...]
    units: tuple[str, ...]
    channels: tuple[str, ...]
    findings: tuple[Finding, ...]
    patient: str | None = None
    age: float | None = None
    sex: str | None = None
    amplitude: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity != "info")

    def row(self) -> dict[str, Any]:
        """What the manifest says of this record beside its path, name, patient and findings."""
        return {
            "format": self.format,
            "fs": round(self.fs, 6),
            "duration": round(self.seconds, 4),
            "leads": " ".join(self.channels),
            "age": self.age,
            "sex": self.sex or "",
        }


Kind = Record | Picture | VolumeRecord | SubjectRecord


@dataclass(frozen=True)
class ScanResult:
    """Readable records, failed ones as (path, reason), of a table its rows, so that its columns are kept, of a folder how
    many files of which suffix are of no format that is read, and sentences on why what was taken (DICOM series)."""

    source: str
    records: tuple[Kind, ...]
    failed: tuple[tuple[str, str], ...]
    table: pd.DataFrame | None = None
    others: dict[str, int] = field(default_factory=dict)
    said: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return len(self.records) + len(self.failed)

    def codes(self) -> Counter[str]:
        """How many records have each finding."""
        return Counter(code for record in self.records for code in {f.code for f in record.findings})

    def frame(self, folder: Path | None = None) -> pd.DataFrame:
        """The manifest: path (relative to ``folder`` where it lies below it; of MRI a column a sequence), patient_id (blank
        where unknown), what was found, and every further column of a scanned table."""
        rows = []
        named = all(r.named for r in self.records if isinstance(r, SubjectRecord))
        for record in self.records:
            if isinstance(record, SubjectRecord):
                place = record.places(folder, named)
            else:
                place = {"path": seen_from(record.path, folder) if folder else record.path}
            rows.append(
                {
                    **place,
                    "record": record.record,
                    "patient_id": record.patient or "",
                    **(record.mask(folder) if isinstance(record, SubjectRecord) else {}),
                    **record.row(),
                    "findings": " ".join(dict.fromkeys(f.code for f in record.warnings)),
                }
            )
        frame = pd.DataFrame(rows)
        if frame.empty or self.table is None:
            return frame
        # The table knows better than the files: its columns stand, found ones only fill in.
        own = self.table.set_index("path").loc[[r.path for r in self.records]].reset_index(drop=True)
        if isinstance(
            self.records[0], SubjectRecord
        ):  # but not where it names files, seen from another folder
            own = own.drop(columns=[c for c in own if is_place(own[c])])
        return pd.concat([frame[[c for c in frame if c not in own]], own], axis=1)

    def _column(self, name: str) -> list[str]:
        """A column of :meth:`frame` as text, blank where it is blank or not there."""
        frame = self.frame()
        return frame[name].fillna("").astype(str).tolist() if name in frame else [""] * len(self.records)

    def write_manifest(self, output: str | Path) -> Path:
        """``frame`` as CSV. Raises :class:`MedfmError` when nothing was readable."""
        output = Path(output)
        if not self.records:
            raise MedfmError(f"{self.source}: no record could be read, so there is no manifest to write.")
        with written_whole(output) as part:
            self.frame(output.parent.resolve()).to_csv(part, index=False)
        return output

    def describe(self) -> dict[str, Any]:
        """Formats, demographics and findings over all readable records, and what the modality has to say: of signals
        lengths, rates, leads and amplitudes, of pictures sizes, views and near-duplicates."""
        ages = np.array([r.age for r in self.records if r.age is not None], float)
        patients = self._column("patient_id")
        each = Counter(filter(None, patients))
        signals = [r for r in self.records if isinstance(r, Record)]
        images = [r for r in self.records if isinstance(r, Picture)]
        volumes = [r for r in self.records if isinstance(r, VolumeRecord)]
        subjects = [r for r in self.records if isinstance(r, SubjectRecord)]
        described: dict[str, Any] = {
            "source": self.source,
            "records": len(self.records),
            "failed": len(self.failed),
            "patients": len(each) if each and all(patients) else None,
            "patients_known": {
                "patients": len(each),
                "records": each.total(),
                "most": max(each.values(), default=0),
            },
            "others": self.others,
            "formats": dict(Counter(r.format for r in self.records).most_common()),
            **(
                subject_summary(subjects)
                if subjects
                else _summary(signals, images, volumes, patients, self._column("split"))
            ),
            "findings": dict(self.codes().most_common()),
        }
        if len(ages):
            described["age"] = {
                "known": len(ages),
                "median": float(np.median(ages)),
                "range": [ages.min(), ages.max()],
            }
        if sexes := Counter(r.sex for r in self.records if r.sex):
            described["sex"] = dict(sexes)
        return described


def _summary(
    signals: list[Record],
    images: list[Picture],
    volumes: list[VolumeRecord],
    patients: list[str],
    splits: list[str],
) -> dict[str, Any]:
    if volumes:
        return volume_summary(volumes)
    return summary(images, patients, splits) if images else _signals(signals)


def _signals(records: list[Record]) -> dict[str, Any]:
    seconds = np.array([r.seconds for r in records])
    # The fullest record first: its order of leads is the modality's.
    fullest = sorted(records, key=lambda r: -len(r.channels))
    leads = Counter(lead for r in fullest for lead in r.channels)
    amplitude = {
        lead: [
            round(float(np.median([r.amplitude[lead][k] for r in records if lead in r.amplitude])), 3)
            for k in range(3)
        ]
        for lead in leads
    }
    found: dict[str, Any] = {
        "fs": {f"{fs:g}": n for fs, n in Counter(r.fs for r in records).most_common()},
        "leads": dict(leads),
        "amplitude_mv": amplitude,
    }
    if len(seconds):
        low, median, high = np.percentile(seconds, (0, 50, 100))
        found["seconds"] = {"shortest": low, "median": median, "longest": high, "total": float(seconds.sum())}
    return found


def find_records(
    folder: str | Path, room: Any = formats, others: Counter[str] | None = None
) -> tuple[list[str], list[tuple[str, str]]]:
    """Addresses of all records below a folder, sorted, and containers that could not be opened, with the
    reason. room: who knows what a record is (:func:`~medfm.data.rooms.room_of`). others: counts the suffixes of the
    files that are no record.

    Raises :class:`MedfmError` for a folder that does not exist or holds no record.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MedfmError(f"folder not found: {folder}.")
    if hasattr(room, "tree"):
        found: tuple[list[str], list[tuple[str, str]]] = room.tree(
            folder, Counter() if others is None else others
        )
        return found
    addresses: list[str] = []
    failed: list[tuple[str, str]] = []
    others = Counter() if others is None else others
    for file in _walk(folder, failed):
        try:
            if not room.is_candidate(file):
                others[file.suffix.lower() or "no suffix"] += 1
                continue
            addresses += [str(a) for a in room.records(file)]
        except MedfmError as error:
            failed.append((str(file), str(error)))
        except OSError as error:
            failed.append((str(file), f"cannot be opened ({error.strerror}); change its permissions."))
    if not addresses and not failed:
        seen = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(5)) or "no file"
        readable = formats.READERS if room is formats else set(room.SUFFIXES.values())
        known = " ".join(sorted(s for s, name in room.SUFFIXES.items() if name in readable))
        raise MedfmError(
            f"{folder}: no record below this folder (it holds {seen}). Records are {known} files."
        )
    return addresses, failed


def _walk(folder: Path, failed: list[tuple[str, str]]) -> Iterator[Path]:
    """Files below ``folder``, hidden ones left out; a folder that may not be entered joins ``failed``."""

    def locked(error: OSError) -> None:
        failed.append((str(error.filename), f"cannot be opened ({error.strerror}); change its permissions."))

    for parent, folders, files in os.walk(folder, onerror=locked):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(parent) / name


def scan(source: str | Path, modality: Any, jobs: int = 1, progress: Progress | None = None) -> ScanResult:
    """Read every record of a folder, of one file, or of a table with a ``path`` column.

    A table's missing files count as failed. Raises :class:`MedfmError` when the source does not exist, is no
    table, or holds no record at all.
    """
    source = Path(source)
    room = room_of(modality)
    table = None
    failed: list[tuple[str, str]] = []
    others: Counter[str] = Counter()
    if source.is_dir():
        addresses, failed = find_records(source, room, others)
    elif is_table(source):
        # Patients are not needed to look at files; training asks for them.
        table = Manifest.from_frame(
            read_table(source), root=source.parent.resolve(), patient=None, source=str(source)
        ).frame
        table = table.drop(columns=["patient"]).drop_duplicates("path")
        addresses = table["path"].tolist()
    else:
        addresses = [str(a) for a in room.records(source)]
    given: list[Any] = (
        table["fs"].tolist() if table is not None and "fs" in table else [None] * len(addresses)
    )
    if hasattr(room, "subjects"):
        if table is not None:
            room.know(table)
        given = [room.subjects.get(address) for address in addresses]
    records: list[Kind] = []
    for done, outcome in enumerate(_read_all(addresses, given, modality, jobs), 1):
        if not isinstance(outcome, tuple):
            records.append(outcome)
        else:
            failed.append(outcome)
        if progress:
            progress(done, len(addresses))
    said = tuple(getattr(room, "said", ()))
    return ScanResult(str(source), tuple(records), tuple(failed), table, dict(others.most_common()), said)


def _read_all(
    addresses: list[str], given: Iterable[Any], modality: Any, jobs: int
) -> Iterator[Kind | tuple[str, str]]:
    if jobs == 1 or len(addresses) < 2:
        yield from (inspect(address, modality, one) for address, one in zip(addresses, given))
        return
    from joblib import Parallel, delayed

    yield from Parallel(n_jobs=jobs, return_as="generator")(
        delayed(inspect)(address, modality, one) for address, one in zip(addresses, given)
    )


def inspect(address: str, modality: Any, given: Any = None) -> Kind | tuple[str, str]:
    """One record, or (path, reason). given: a table's sampling rate of a signal, a :class:`Subject` of an MRI. Never raises:
    one bad file does not end a scan."""
    fs: Any = None if isinstance(given, Subject) else given
    try:
        if modality.name == "mri":
            return inspect_subject(address, modality, given if isinstance(given, Subject) else None)
        if modality.rank == 3:
            return inspect_volume(address, modality)
        if modality.rank == 2:
            return inspect_picture(address, modality)
        signal = formats.read(address, fs=float(fs)) if _number(fs) else formats.read(address)
        sample = modality.from_signal(signal)
    except MedfmError as error:
        reason = str(error)
        # A reason that opens with the path would say it twice in every list.
        return address, reason.removeprefix(f"{address}: ").removeprefix(f"{address} ")
    except Exception as error:
        return address, f"{type(error).__name__}: {error}"
    amplitude = {}
    for lead, x, there in zip(sample.channels, sample.x, sample.present):
        if there and (values := x[np.isfinite(x)]).size:
            low, middle, high = (float(v) for v in np.percentile(values, PERCENTILES))
            amplitude[lead] = (low, middle, high)
    age = signal.meta.get("age")
    return Record(
        path=address,
        record=sample.record or Path(address).stem,
        format=signal.format,
        fs=signal.fs,
        seconds=signal.x.shape[1] / signal.fs,
        file_channels=signal.channels,
        units=signal.units,
        channels=tuple(lead for lead, there in zip(sample.channels, sample.present) if there),
        findings=sample.findings,
        patient=signal.patient,
        age=float(age) if age is not None and _number(age) else None,
        sex=str(signal.meta["sex"]) if signal.meta.get("sex") else None,
        amplitude=amplitude,
    )


def _number(value: Any) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except (TypeError, ValueError):
        return False
