"""Who finds and reads the records of a modality: signals, pictures, volumes, and the slices of volumes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from medfm import formats
from medfm.formats import pictures, volume, volume_tree
from medfm.modalities.ct_slice import split_address
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


def room_of(modality: Any) -> Any:
    """``formats`` for signals, ``formats.pictures`` for pictures, a :class:`VolumeRoom` for volumes and their slices."""
    if modality.name == "ct_slice":
        return SliceRoom(modality)
    return {1: formats, 2: pictures, 3: VolumeRoom()}[modality.rank]
