"""Who finds and reads the records of a modality: signals, pictures, volumes, and the slices of volumes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from medfm import formats
from medfm.data.subject_table import Subject, labelled, subjects_frame
from medfm.data.subjects import find_subjects
from medfm.formats import pictures, volume, volume_tree
from medfm.formats.subject import split_subject, subject_files
from medfm.modalities.ct_slice import split_address
from medfm.modalities.mri_sequences import subject_name
from medfm.types import MedfmError

Found = tuple[list[str], list[tuple[str, str]]]


class VolumeRoom:
    """Volumes: a folder of DICOM slices is one record or several, so that a tree is looked at as a whole."""

    SUFFIXES = volume.SUFFIXES

    def records(self, path: str | Path) -> list[str]:
        return volume.records(path)

    def is_candidate(self, path: str | Path) -> bool:
        return volume.is_candidate(path)

    def read(self, address: str) -> Any:
        return volume.read_volume(address)

    def split_address(self, address: str | Path) -> tuple[Path, str | None]:
        return volume.split_address(address)

    def patient(self, address: str) -> str | None:
        """That a DICOM series states; other formats have no place for one."""
        return volume_tree.stated_patient(address)

    def tree(self, folder: Path, others: Counter[str]) -> Found:
        """Addresses of all volumes below ``folder``, sorted, and what could not be opened with the reason."""
        found = volume_tree.find_volumes(folder)
        others.update(found.others)
        return sorted(found.addresses), [(str(p), why) for p, why in found.failed]


class SliceRoom(VolumeRoom):
    """Slices of volumes, as the modality cuts them."""

    def __init__(self, modality: Any) -> None:
        self.modality = modality

    def read(self, address: str) -> Any:
        """The :class:`~medfm.types.Sample`: what a slice is, the modality says."""
        return self.modality.read(address)

    def split_address(self, address: str | Path) -> tuple[Path, str | None]:
        name, number = split_address(address)
        return Path(name), None if number is None else str(number)

    def records(self, path: str | Path) -> list[str]:
        if split_address(path)[1] is not None:
            return [str(path)]
        return [one for address in volume.records(path) for one in self.modality.slices(address)]

    def patient(self, address: str) -> str | None:
        """Of a volume that states none, the volume itself: its slices are of one patient."""
        whole = split_address(address)[0]
        return volume_tree.stated_patient(whole) or whole

    @staticmethod
    def volume_of(address: str) -> str:
        """The volume that a slice is of."""
        return split_address(address)[0]

    def tree(self, folder: Path, others: Counter[str]) -> Found:
        volumes, failed = VolumeRoom().tree(folder, others)
        addresses: list[str] = []
        for one in volumes:
            try:
                addresses += self.modality.slices(one)
            except MedfmError as error:
                failed.append((one, str(error).removeprefix(f"{one}: ")))
        return addresses, failed


class SubjectRoom(VolumeRoom):
    """Subjects of several volumes: an address names the file of each sequence (:mod:`medfm.formats.subject`).

    subjects: what is known of an address beside its files (record, patient, mask); said: why which DICOM series was taken. Both
    are of the folders looked at.
    """

    def __init__(self, modality: Any) -> None:
        self.modality = modality
        self.subjects: dict[str, Subject] = {}
        self.said: list[str] = []

    def know(self, frame: pd.DataFrame) -> None:
        """Records and masks of a table's rows."""
        self.subjects.update(labelled(frame))

    def rows(self, addresses: list[str]) -> pd.DataFrame:
        """A manifest's rows of addresses that :meth:`tree` found; ``patient_id`` is blank where it is not known."""
        return subjects_frame(self.subjects[a] for a in addresses)

    def read(self, address: str) -> Subject:
        """The subject, its files unread: the modality reads them."""
        known = self.subjects.get(address)
        return known or Subject(subject_name(address), split_subject(address) or {"": address})

    def split_address(self, address: str | Path) -> tuple[Path, str | None]:
        """A file whose stem is the subject's name: its own files are called alike in every folder."""
        return Path(f"{self.read(str(address)).record}.nii"), None

    def records(self, path: str | Path) -> list[str]:
        return self.tree(Path(path), Counter())[0] if Path(path).is_dir() else [str(path)]

    def patient(self, address: str) -> str | None:
        known = self.subjects.get(address)
        return known.patient if known else volume_tree.stated_patient(subject_files(address)[0])

    def tree(self, folder: Path, others: Counter[str]) -> Found:
        found = find_subjects(folder, self.modality.sequences)
        others.update(found.others)
        self.said += found.said
        self.subjects.update({s.address: s for s in found.subjects})
        return [s.address for s in found.subjects], found.failed


def room_of(modality: Any) -> Any:
    """``formats`` for signals, ``formats.pictures`` for pictures, a :class:`VolumeRoom` for volumes, their slices,
    and subjects of several."""
    if modality.name == "ct_slice":
        return SliceRoom(modality)
    if modality.name == "mri":
        return SubjectRoom(modality)
    return {1: formats, 2: pictures, 3: VolumeRoom()}[modality.rank]
