"""What the workflows ask of a modality beyond its own contract: one line of :data:`KINDS` each.

``Reading`` is how records of one shape are kept, cut and batched (signals by windows, pictures whole, volumes by crops);
``Kind`` adds what is said and simulated of one modality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medfm.data.image_batches import ImageBatches
from medfm.data.image_store import ingest_images
from medfm.data.loader import SignalBatches
from medfm.data.store import ingest
from medfm.data.volume_batches import VolumeBatches
from medfm.data.volume_store import ingest_volumes
from medfm.types import Batch, Sample
from medfm.workflows import corpora, floors, user_arrays, volume_windows, windows

SHOWN = 4  # pictures in the report


@dataclass(frozen=True)
class Reading:
    """ingest: manifest, modality, root, jobs, progress -> store. batches: of a mixture of such stores. records: store,
    modality, window, augment -> ``finetuning.records.Records``. window: modality, crop in seconds -> samples (0: whole).
    cuts: sample, modality, window -> what a network takes. arrays: a user's array -> one reader a record."""

    ingest: Callable[..., Any]
    batches: type[SignalBatches]
    records: Callable[..., Any]
    window: Callable[[Any, float | None], int]
    cuts: Callable[[Sample, Any, int], Iterator[Sample]]
    arrays: Callable[[np.ndarray, Any, float | None, Sequence[str] | None], list[Callable[[], Sample]]]


SIGNALS = Reading(
    ingest,
    SignalBatches,
    windows.StoreRecords,
    windows.signal_window,
    windows.signal_cuts,
    user_arrays.signals,
)
PICTURES = Reading(
    ingest_images,
    ImageBatches,
    windows.PictureRecords,
    windows.picture_window,
    windows.picture_cuts,
    user_arrays.pictures,
)
VOLUMES = Reading(
    ingest_volumes,
    VolumeBatches,
    volume_windows.VolumeRecords,
    volume_windows.volume_window,
    volume_windows.volume_cuts,
    user_arrays.volumes,
)


@dataclass(frozen=True)
class Kind:
    """plural: what its records are called. corpus: settings, modality, root, jobs, progress -> store. floors: features
    without a network that a probe compares with, by name. mask: modality, method, batch -> the report's figure of what
    was hidden, and its caption. views: modality, batch -> the figure of records and two views of each, and its caption.
    record: modality, x [C, *S] in its unit, heat [*grid] or None, steps of a heat's cell -> the figure of one record.
    preprocessing: of a card. target: a label of its synthetic corpus. citations: of its generator."""

    reading: Reading
    plural: str
    corpus: Callable[..., Any]
    floors: Mapping[str, Callable[[np.ndarray, Any], np.ndarray]]
    mask: Callable[[Any, Any, Batch], tuple[Any, str]]
    views: Callable[[Any, Batch], tuple[Any, str]]
    record: Callable[[Any, np.ndarray, np.ndarray | None, Sequence[int]], Any]
    preprocessing: Callable[[Any], str]
    target: str
    citations: tuple[str, ...] = ()


def _ecg_mask(modality: Any, method: Any, batch: Batch) -> tuple[Any, str]:
    from medfm.evaluation import training_figures
    from medfm.pretraining.diagnostics import mask_pictures

    picture = mask_pictures(method, batch)[0]
    figure = training_figures.ecg_mask(
        batch.x[0].numpy(),
        picture.masked,
        picture.error,
        fs=1.0 / modality.spacing[0],
        channels=modality.channels,
        constant=picture.spread,
    )
    return figure, "A record with its masked spans and the prediction error under them"


def _picture_mask(modality: Any, method: Any, batch: Batch) -> tuple[Any, str]:
    from medfm.evaluation import training_figures
    from medfm.pretraining.diagnostics import reconstructions

    few = replace(batch, x=batch.x[:SHOWN], present=batch.present[:SHOWN], target=None)
    *pictures, borrowed = reconstructions(method, few)
    caption = "Pictures, what the network saw of them, and what it made of that"
    if borrowed:
        caption += (
            "; each hidden part has its true brightness and contrast, which the network is not asked for"
        )
    return training_figures.picture_masks(*pictures), caption


def _volume_mask(modality: Any, method: Any, batch: Batch) -> tuple[Any, str]:
    from medfm.evaluation import training_figures
    from medfm.pretraining.diagnostics import reconstructions

    few = replace(batch, x=batch.x[:SHOWN], present=batch.present[:SHOWN], target=None)
    *volumes, borrowed = reconstructions(method, few)
    caption = "Axial slices, what the network saw of the volumes, and what it made of that"
    if borrowed:
        caption += (
            "; each hidden part has its true brightness and contrast, which the network is not asked for"
        )
    return training_figures.picture_masks(*(_axial(modality, x) for x in volumes)), caption


def _axial(modality: Any, x: np.ndarray) -> np.ndarray:
    """The first channel that is there of ``x [B, C, X, Y, Z]`` as pictures ``[B, 1, H, W]``, a third of the way up, where a
    hidden patch begins or ends in few grids."""
    from medfm.modalities.volume_views import axial_slices

    first = (~np.isnan(x).all((2, 3, 4))).argmax(1)
    return axial_slices(x[np.arange(len(x)), first][:, None], modality.orientation, modality.spacing, 0.4)


def _volume_views(modality: Any, batch: Batch) -> tuple[Any, str]:
    from medfm.evaluation import training_figures

    first, second = (_axial(modality, v) for v in batch.views["views"][:SHOWN].numpy().swapaxes(0, 1)[:2])
    figure = training_figures.picture_rows((first, second), ("One view", "Another view"))
    return figure, "Axial slices of two views of each volume"


def _volume_record(modality: Any, x: np.ndarray, heat: np.ndarray | None, cell: Sequence[int]) -> Any:
    from medfm.evaluation import volume_figures
    from medfm.modalities.volume_views import PLANES, plane, square

    assert heat is None  # see finetune_worst.keep_heat
    present = ~np.isnan(x).all((1, 2, 3))
    first = int(modality.seen(present).argmax())
    shown = modality.normalise(x[None], present[None])[0][first : first + 1]
    return volume_figures.planes(
        {name: square(*plane(shown, modality.orientation, modality.spacing, name))[0] for name in PLANES}
    )


def _subject_mask(modality: Any, method: Any, batch: Batch) -> tuple[Any, str]:
    from medfm.evaluation import training_figures
    from medfm.modalities.volume_views import axial_slices
    from medfm.pretraining.diagnostics import reconstructions

    whole = int(batch.present.sum(1).argmax())  # the subject of most sequences, a row each
    few = slice(whole, whole + 1)
    *volumes, borrowed = reconstructions(
        method, replace(batch, x=batch.x[few], present=batch.present[few], target=None)
    )
    there = batch.present[whole].numpy()
    rows = [axial_slices(x[0][there][:, None], modality.orientation, modality.spacing, 0.5) for x in volumes]
    names = ", ".join(name for name, is_there in zip(modality.channels, there) if is_there)
    caption = f"{names} of one subject: axial slices, what the network saw of them, and what it made of that"
    if borrowed:
        caption += (
            "; each hidden part has its true brightness and contrast, which the network is not asked for"
        )
    return training_figures.picture_masks(*rows), caption


def _ecg_views(modality: Any, batch: Batch) -> tuple[Any, str]:
    from medfm.evaluation import training_figures

    figure = training_figures.signal_views(
        batch.views["views"][0].numpy(), fs=1.0 / modality.spacing[0], channels=modality.channels
    )
    return figure, "Two views of a record, over each other"


def _picture_views(modality: Any, batch: Batch) -> tuple[Any, str]:
    from medfm.evaluation import training_figures

    first, second = batch.views["views"][:SHOWN].numpy().swapaxes(0, 1)
    figure = training_figures.picture_rows(
        (batch.x[:SHOWN].numpy(), first, second), ("Picture", "One view", "Another view")
    )
    return figure, "Pictures and two views of each, which the network is to bring together"


def _ecg_record(modality: Any, x: np.ndarray, heat: np.ndarray | None, cell: Sequence[int]) -> Any:
    from medfm.modalities import ecg_paper

    return ecg_paper.draw_prepared(x, modality, heat, cell)


def _picture_record(modality: Any, x: np.ndarray, heat: np.ndarray | None, cell: Sequence[int]) -> Any:
    from medfm.evaluation import heat_figures

    return heat_figures.picture_heat(x, heat, cell)


def _ecg_words(modality: Any) -> str:
    s = modality.settings()
    normal = {
        "dataset": "minus the mean and divided by the deviation of each lead over the training data",
        "record": "minus the mean and divided by the deviation of each lead of the record",
        "none": "kept in mV",
    }[s["normalise"]]
    filtered = f", zero-phase high-pass at {s['highpass']:g} Hz" if s["highpass"] else ", no filter"
    return (
        f"Leads {', '.join(s['leads'])} found by name, in mV, resampled to {s['fs']:g} Hz{filtered}; windows of "
        f"{s['seconds']:g} s; {normal}; clipped to ±{s['clip']:g}. Absent leads are zeroed inside the network."
    )


def _xray_words(modality: Any) -> str:
    s = modality.settings()
    window = (
        f"percentiles {s['percentiles'][0]:g} and {s['percentiles'][1]:g} of the picture as black and white"
        if s["voi"] < 0
        else "the file's own window (percentiles of the picture where it has none)"
    )
    shown = {"file": "bone bright", "always": "small values bright", "never": "large values bright"}
    fit = {
        "pad": "proportions kept, padded with black",
        "crop": "proportions kept, cropped to the centre",
        "stretch": "proportions not kept",
    }
    normal = {
        "dataset": "minus the mean and divided by the deviation over the training data",
        "record": "minus the mean and divided by the deviation of the picture",
        "none": "grey 0 to 1",
    }
    return (
        f"One {'grey channel' if s['colour'] == 'grey' else 'picture of three channels'}, {shown[s['invert']]}, through "
        f"{window}; resampled to {s['size'][0]} x {s['size'][1]} pixels, {fit[s['fit']]}; {normal[s['normalise']]}."
    )


def _ct_words(modality: Any) -> str:
    s = modality.settings()
    shown = " and ".join(f"{low:g} to {high:g} HU" for low, high in s["windows"])
    normal = {
        "dataset": "; minus the mean and divided by the deviation of each window over the training data",
        "record": "; minus the mean and divided by the deviation of each crop",
        "none": "",
    }
    return (
        f"Hounsfield units, axes to {s['orientation']}, resampled to {' x '.join(f'{mm:g}' for mm in s['spacing'])} mm"
        f"{', cut to the body' if s['foreground'] == 'body' else ''}; windows of {shown} as 0 to 1, clipped"
        f"{normal[s['normalise']]}; crops of {' x '.join(map(str, s['size']))} voxels."
    )


def _mri_words(modality: Any) -> str:
    s = modality.settings()
    clipped = (
        f", clipped to percentiles {s['percentiles'][0]:g} and {s['percentiles'][1]:g}"
        if s["percentiles"]
        else ""
    )
    where = {
        "auto": "the foreground (voxels that are not zero, or above a threshold where the head was not cut out)",
        "nonzero": "the voxels that are not zero",
        "otsu": "the head (above a threshold)",
        "none": "all voxels",
    }
    grids = "of one grid" if s["grid"] == "refuse" else "brought to the grid of the first"
    return (
        f"Sequences {', '.join(s['sequences'])} of a subject, as many as there are, {grids}; axes to {s['orientation']}, resampled to "
        f"{' x '.join(f'{mm:g}' for mm in s['spacing'])} mm, cut to the head; each a z-score over {where[s['foreground']]}{clipped}; crops "
        f"of {' x '.join(map(str, s['size']))} voxels. An absent sequence takes part in nothing."
    )


def _ct_slice_words(modality: Any) -> str:
    s = modality.settings()
    shown = " and ".join(f"{low:g} to {high:g} HU" for low, high in s["windows"])
    normal = {
        "dataset": "; minus the mean and divided by the deviation of each window over the training data",
        "record": "; minus the mean and divided by the deviation of each slice",
        "none": "",
    }
    return (
        f"{s['plane'].capitalize()} slices in Hounsfield units, {s['size'][0]} x {s['size'][1]} pixels of {s['spacing']:g} mm about the middle of "
        f"the body; windows of {shown} as 0 to 1, clipped{normal[s['normalise']]}."
    )


KINDS: dict[str, Kind] = {
    "ecg": Kind(
        SIGNALS,
        "ECGs",
        corpora.ecg_store,
        floors.ECG,
        _ecg_mask,
        _ecg_views,
        _ecg_record,
        _ecg_words,
        "afib",
        ("ecgsyn",),
    ),
    "xray": Kind(
        PICTURES,
        "radiographs",
        corpora.xray_store,
        floors.PICTURE,
        _picture_mask,
        _picture_views,
        _picture_record,
        _xray_words,
        "effusion",
    ),
    "ct": Kind(
        VOLUMES,
        "CT volumes",
        corpora.ct_store,
        floors.VOLUME,
        _volume_mask,
        _volume_views,
        _volume_record,
        _ct_words,
        "liver_lesion",
    ),
    "mri": Kind(
        VOLUMES,
        "MRI subjects",
        corpora.mri_store,
        floors.SUBJECT,
        _subject_mask,
        _volume_views,
        _volume_record,
        _mri_words,
        "subtype",
    ),
    "ct_slice": Kind(
        PICTURES,
        "CT slices",
        corpora.ct_slice_store,
        floors.PICTURE,
        _picture_mask,
        _picture_views,
        _picture_record,
        _ct_slice_words,
        "has_spleen",
    ),
}


def kind_of(modality: Any) -> Kind:
    return KINDS[modality.name]
