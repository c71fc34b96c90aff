"""The vocabulary between rooms: what a reader hands to a modality, a loader to a network, a person to nobody.

Shapes: B batch, C channels (leads), S spatial or time axes, T samples in time, V views. numpy and torch are named in
annotations and never imported: a wrong setting is answered with a ConfigError before either loads.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import torch

RESEARCH_USE = "Research use only: not a medical device, not for diagnosis or treatment."


class MedfmError(ValueError):
    """A failure that the user can mend: the message names the file or setting, and the remedy.

    The command line prints it as one sentence (exit status 1); the traceback appears only with ``--debug``.
    """


class ReadError(MedfmError):
    """One file could not be read. A run sets the record aside with this sentence and goes on."""


class ConfigError(MedfmError):
    """A wrong call or configuration; the command line exits with status 2."""


@dataclass(frozen=True)
class Finding:
    """A named observation about a record, for a person: ``code`` is stable, ``message`` is a sentence."""

    code: str
    message: str
    severity: Literal["info", "warning", "error"] = "warning"
    channel: str | None = None


@dataclass(frozen=True)
class Signal:
    """What a signal format yields: the file's own channels in physical units, nothing interpreted.

    x: float32 ``[C, T]``, NaN where the file marks a gap; fs in Hz; channels and units as written in the file
    (``""`` when the file states none); ``meta`` may hold identity (age, sex, device) and never leaves the site.
    """

    x: np.ndarray
    fs: float
    channels: tuple[str, ...]
    units: tuple[str, ...]
    format: str
    record: str = ""
    patient: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        assert self.x.ndim == 2 and self.x.shape[0] == len(self.channels) == len(self.units)


@dataclass(frozen=True)
class Voi:
    """One way from values to grey that a file offers (DICOM PS3.3 C.11.2): a window, or a table of grey values.

    centre, width: in the image's values, after its modality LUT; function: LINEAR, LINEAR_EXACT or SIGMOID.
    table: grey of the values ``first``, ``first + 1``, ... as numbers of ``bits`` bits; it stands for the window.
    """

    centre: float = 0.0
    width: float = 0.0
    function: str = "LINEAR"
    table: np.ndarray | None = None
    first: int = 0
    bits: int = 16
    explanation: str = ""


@dataclass(frozen=True)
class Image:
    """What an image format yields: the file's own values, not yet windowed or inverted, nothing interpreted.

    x: float32 ``[C, H, W]`` after modality LUT or rescale; C is 1 (grey) or 3 (red, green, blue). valid: bool
    ``[H, W]``, False where the file says that there is no picture (padding, display shutter), None: everywhere.
    field: (top, bottom, left, right) of the collimated field, half open, None: not stated. spacing: mm a pixel (row
    pitch, column pitch), None: not stated. aspect: row pitch / column pitch. photometric: the file's word, as in
    DICOM. inverted: small values are to be shown bright, after windowing. voi: windows and tables, the file's first
    choice first. bits: that a stored value has. ``meta`` may hold identity and never leaves the site.
    """

    x: np.ndarray
    photometric: str
    bits: int
    format: str
    spacing: tuple[float, float] | None = None
    aspect: float = 1.0
    inverted: bool = False
    voi: tuple[Voi, ...] = ()
    valid: np.ndarray | None = None
    field: tuple[int, int, int, int] | None = None
    record: str = ""
    patient: str | None = None
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        assert self.x.ndim == 3 and self.x.shape[0] in (1, 3)
        assert self.valid is None or self.valid.shape == self.x.shape[1:]


@dataclass(frozen=True)
class Volume:
    """What a volume format yields: voxel values after rescale, on the file's own grid, nothing resampled.

    x: ``[X, Y, Z]`` int16 or float32, axes in the file's own order. affine: float64 ``[4, 4]``, voxel index to mm in
    RAS+ (x to the right, y to the front, z to the head, as NIfTI has it). unit: ``"HU"`` where file or values say so,
    ``""`` where it is not known, ``"label"`` for a mask that was asked for as one. valid: bool ``[X, Y, Z]``, False where
    the file says that there is no measurement (padding), None: everywhere. ``meta`` may hold identity and never leaves
    the site.
    """

    x: np.ndarray
    affine: np.ndarray
    unit: str
    format: str
    valid: np.ndarray | None = None
    record: str = ""
    patient: str | None = None
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        assert self.x.ndim == 3 and self.affine.shape == (4, 4)
        assert self.valid is None or self.valid.shape == self.x.shape

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm between voxels along each axis of ``x``."""
        lengths = (self.affine[:3, :3] ** 2).sum(0) ** 0.5
        return tuple(float(v) for v in lengths)  # type: ignore[return-value]


@dataclass(frozen=True)
class Sample:
    """One record on its modality's grid.

    x: float32 ``[C, *S]``; an absent channel is NaN here and is zeroed only inside a network, by ``present``.
    spacing: seconds per sample (rank 1) or mm per axis. present: bool ``[C]``.
    """

    x: np.ndarray
    spacing: tuple[float, ...]
    channels: tuple[str, ...]
    present: np.ndarray
    modality: str
    record: str = ""
    patient: str | None = None
    target: np.ndarray | None = None
    findings: tuple[Finding, ...] = ()

    def replace(self, **changes: Any) -> Sample:
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class ViewSpec:
    """What a method asks of the loader (torch-free): masks and grid cuts are made in the method, on the device.

    views: versions of each record, in ``Batch.views["views"]`` where there are several. place: ``same``, one window of
    the record augmented so many times; ``any``, each view a window of its own, drawn anywhere in the record. size: of a
    window, in steps of the modality's grid; None: the modality's own.
    """

    views: int = 1
    same: Literal["record", "patient"] = "record"
    place: Literal["same", "any"] = "same"
    size: tuple[int, ...] | None = None
    augment: tuple[str, ...] = ()


@dataclass(frozen=True)
class Truths:
    """What a generator knows of its records, row by row, as targets to learn from.

    names K; binary bool ``[K]`` (0 or 1; the others are standardised numbers); values float32 ``[n, K]``, NaN
    where a truth does not exist for a record.
    """

    names: tuple[str, ...]
    binary: np.ndarray
    values: np.ndarray

    @property
    def rate(self) -> np.ndarray:
        """Mean of each column ``[K]``, of the binary ones the prevalence."""
        known = ~(self.values != self.values)
        total = self.values.sum(0, where=known, dtype="float64")
        return total / known.sum(0).clip(1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Batch:
    """A collated batch. x ``[B, C, *S]`` (NaN where absent), present bool ``[B, C]``, target ``[B, K]`` or None,
    views name -> ``[B, V, C, *S]``. Lightning moves a frozen dataclass only through :meth:`to`."""

    x: torch.Tensor
    present: torch.Tensor
    target: torch.Tensor | None = None
    views: dict[str, torch.Tensor] = field(default_factory=dict)
    view_meta: dict[str, torch.Tensor] = field(default_factory=dict)
    patients: tuple[str, ...] = ()
    records: tuple[str, ...] = ()

    def to(self, device: Any, non_blocking: bool = False) -> Batch:
        def move(t: torch.Tensor | None) -> Any:
            return None if t is None else t.to(device, non_blocking=non_blocking)

        return dataclasses.replace(
            self,
            x=move(self.x),
            present=move(self.present),
            target=move(self.target),
            views={k: move(v) for k, v in self.views.items()},
            view_meta={k: move(v) for k, v in self.view_meta.items()},
        )

    def pin_memory(self) -> Batch:
        return dataclasses.replace(
            self,
            x=self.x.pin_memory(),
            present=self.present.pin_memory(),
            target=None if self.target is None else self.target.pin_memory(),
            views={k: v.pin_memory() for k, v in self.views.items()},
            view_meta={k: v.pin_memory() for k, v in self.view_meta.items()},
        )


class Features(NamedTuple):
    """What every backbone returns: ``maps`` fine to coarse (a ViT: one map ``[B, D, *grid]``), ``pooled [B, D]``."""

    maps: tuple[torch.Tensor, ...]
    pooled: torch.Tensor
