"""Whatever a user hands over, file, folder, table or array, as records to read one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medfm.data.codes import site_codes
from medfm.data.manifest import Manifest
from medfm.data.rooms import room_of
from medfm.types import MedfmError, Sample, Volume
from medfm.workflows.kinds import kind_of

if TYPE_CHECKING:
    import pandas as pd

Read = Callable[[str], Sample]

# part of a reader's sentence -> what is said of it where no name may stand
PLAIN = {
    "no such file": "no such file",
    "no such record": "no such file",
    "is empty": "the file is empty",
    "may not be read by this user": "no permission to read it",
    "is missing": "a part of it is missing",
    "truncated": "the file is truncated",
    "sampling rate": "its sampling rate is missing, wrong or another",
    "not recognised": "its format is not recognised",
    "has the name of a lead": "no channel has the name of a lead",
    "carries a signal": "no lead carries a signal",
    "without an image": "it holds no image",
    "not a radiograph": "it is no radiograph",
    "too few to show": "it has too few pixels",
    "nothing was exposed": "it has one value everywhere",
    "nothing but padding": "it has one value everywhere",
    "no pixel data": "it holds no pixels",
    "cut short": "the file is cut short",
    "cannot be decoded": "its pixels cannot be decoded",
    "bits stored in": "its bits stored cannot be",
    "if that is a real": "it states too many pixels",
    "damaged": "the file is damaged",
}


class Item(NamedTuple):
    """One record to read: its name, where it lies (empty for an array), and how to get it."""

    record: str
    path: str
    read: Callable[[], Sample]


def gather(
    x: Any, modality: Any, fs: float | None = None, channels: Sequence[str] | None = None
) -> list[Item]:
    """The records of ``x`` in order; see :meth:`medfm.model.Model.embed` for what ``x`` may be.

    Nothing is read here but tables and the names in folders and containers. Raises :class:`MedfmError` for an
    array without its sampling rate or with channels that have no name, and for a folder or table without
    recordings.
    """
    import pandas as pd

    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    if isinstance(x, np.ndarray) and x.dtype.kind in "fiu":
        readers = kind_of(modality).reading.arrays(x, modality, fs, channels)
        return [Item(str(i), "", read) for i, read in enumerate(readers)]
    if isinstance(x, Volume):
        return [Item(x.record or "0", "", lambda: modality.place(x).sample)]
    if channels is not None:
        raise MedfmError("channels are for arrays: a file names its own (map odd names with modality.alias).")
    # ``fs`` is for files that state none (a CSV or NPY of samples); one that states another is refused.
    read = partial(modality.read, fs=fs)
    room = room_of(modality)
    if isinstance(x, pd.DataFrame):
        return _table(x, read, None, "the table")
    if isinstance(x, str | Path):
        return _path(Path(x), read, room)
    if isinstance(x, Sequence | np.ndarray | pd.Series):
        return [item for path in x for item in _path(Path(str(path)), read, room)]
    raise MedfmError(
        f"cannot embed a {type(x).__name__}: give a file, a folder, a table or an array with fs."
    )


def _path(path: Path, read: Read, room: Any) -> list[Item]:
    from medfm.data.scan import find_records
    from medfm.data.tables import is_table, read_table

    path = path.expanduser()
    if path.is_dir():
        addresses, failed = find_records(path, room)
        return [_item(a, read, room) for a in [*addresses, *(file for file, _ in failed)]]
    if is_table(path):
        return _table(read_table(path), read, path.parent.resolve(), str(path))
    return _records(path, read, room)


def _records(path: Path, read: Read, room: Any) -> list[Item]:
    """One file; a container gives one item a record. A file that cannot be listed fails when it is read."""
    try:
        addresses = room.records(path)
    except MedfmError:
        addresses = [str(path)]
    return [_item(str(a), read, room) for a in addresses]


def _item(address: str, read: Read, room: Any) -> Item:
    """Named by its file, or in a container by its address."""
    file, row = room.split_address(address)
    return Item(file.stem if row is None else address, address, partial(read, address))


def _table(frame: pd.DataFrame, read: Read, root: Path | None, source: str) -> list[Item]:
    manifest = Manifest.from_frame(frame, root=root, patient=None, source=source)
    return [Item(r, p, partial(read, p)) for r, p in zip(manifest.records, manifest.paths)]


def set_aside(path: str, reason: str) -> str:
    """What is said of a record that could not be read: its file, once, and the reason."""
    return reason if path in reason else f"{path}: {reason}"


def tell_set_aside(
    log: logging.Logger, manifest: Manifest, failed: Iterable[tuple[int, str, str]]
) -> list[dict[str, Any]]:
    """Name every file and its reason to the person at the screen; ``train.log``, and what is returned (``row``, ``record``,
    ``reason``), have the row, the record's code and :func:`plain_reason`."""
    failed, coded = list(failed), []
    if not failed:  # a run without a table of its own needs no key
        return []
    names = site_codes().of([manifest.records[row] for row, _, _ in failed], "record")
    for (row, path, reason), name in zip(failed, names):
        coded.append({"row": int(manifest.rows[row]), "record": name, "reason": plain_reason(reason)})
        filed = "set aside: row {row} ({record}): {reason}".format(**coded[-1])
        log.warning("set aside: %s", set_aside(path, reason), extra={"filed": filed})
    return coded


def plain_reason(reason: str) -> str:
    """One of a few constant words: the sentence itself may hold names, and whatever else stood in the file."""
    return next((words for part, words in PLAIN.items() if part in reason), "could not be read")
