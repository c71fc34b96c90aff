"""The ECG: twelve leads by name, in mV, on one sampling grid, with what was wrong said in words.

Shapes: C leads (canonical order of the settings), T samples. Input of ECG-JEPA (Weimann and Conrad, arXiv
2410.13867): 500 Hz, 10 s, per-lead mean and deviation of the training data, clipped at 5 deviations; all of
it is a setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medfm.modalities.ecg_augment import AUGMENTATIONS, MIX_ALTERS
from medfm.modalities.ecg_quality import assess, check_grid
from medfm.modalities.ecg_signal import bridge, highpass, resample, resample_mask, to_millivolts
from medfm.modalities.leads import LEADS, derive, resolve
from medfm.types import Finding, MedfmError, ReadError, Sample, Signal


class ECG:
    """The ECG modality. Keywords are the fields of ``ECGSettings``; :meth:`settings` gives them back.

    leads: names and order of the model's channels, a subset of the standard twelve. fs, Hz and seconds: its
    window. normalise: ``dataset`` (needs ``mean`` and ``std``, mV a lead; see :meth:`fit`), ``record`` or
    ``none``. highpass, Hz (0: off). max_gap, s: NaN runs up to it are bridged. alias: channel name -> lead,
    for names that say nothing (``{"ECG": "II"}``). Raises :class:`MedfmError` on settings that contradict
    each other.
    """

    name = "ecg"
    rank = 1

    def __init__(
        self,
        leads: Sequence[str] = LEADS,
        fs: float = 500.0,
        seconds: float = 10.0,
        normalise: str = "dataset",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        clip: float = 5.0,
        highpass: float = 0.0,
        max_gap: float = 0.2,
        alias: Mapping[str, str] | None = None,
    ) -> None:
        if unknown := [lead for lead in leads if lead not in LEADS]:
            raise MedfmError(f"modality.leads: {', '.join(unknown)} is no lead; use {', '.join(LEADS)}.")
        if len(set(leads)) != len(leads) or not leads:
            raise MedfmError("modality.leads must name at least one lead, each once.")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != len(leads):
                raise MedfmError(f"modality.{name} has {len(values)} values for {len(leads)} leads.")
        if std is not None and not all(value > 0 for value in std):
            raise MedfmError("modality.std must be positive in every lead.")
        if highpass >= fs / 2:
            raise MedfmError(
                f"modality.highpass ({highpass:g} Hz) must lie below half the sampling rate ({fs / 2:g} Hz)."
            )
        resolve((), alias)  # an alias that names no lead is refused here, not at the first file
        self.channels: tuple[str, ...] = tuple(leads)
        self.fs, self.seconds = float(fs), float(seconds)
        self.normalisation, self.clip = normalise, float(clip)
        self.mean = None if mean is None else tuple(float(v) for v in mean)
        self.std = None if std is None else tuple(float(v) for v in std)
        self.highpass, self.max_gap = float(highpass), float(max_gap)
        self.alias = dict(alias or {})
        self._rows = [LEADS.index(lead) for lead in self.channels]

    @property
    def spacing(self) -> tuple[float, ...]:
        return (1.0 / self.fs,)

    @property
    def size(self) -> tuple[int, ...]:
        return (round(self.fs * self.seconds),)

    @property
    def suffixes(self) -> tuple[str, ...]:
        from medfm.formats import SUFFIXES

        return tuple(SUFFIXES)

    def settings(self) -> dict[str, Any]:
        """Plain JSON that rebuilds this modality through ``ECGSettings``; it travels in the bundle."""
        return {
            "name": self.name,
            "leads": list(self.channels),
            "fs": self.fs,
            "seconds": self.seconds,
            "normalise": self.normalisation,
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
            "clip": self.clip,
            "highpass": self.highpass,
            "max_gap": self.max_gap,
            "alias": dict(self.alias),
        }

    def ingest_settings(self) -> dict[str, Any]:
        """The settings that shape a stored record. Window, normalisation and clip act when a batch is
        made."""
        keys = ("name", "leads", "fs", "highpass", "max_gap", "alias")
        return {key: value for key, value in self.settings().items() if key in keys}

    # Reading
    # ---------------------------------------------------------------------------------------------------

    def read(self, path: str | Path, fs: float | None = None, quality: bool = True) -> Sample:
        """One file as a :class:`Sample`: x float32 ``[C, T]`` in mV at ``fs``, any length, NaN where absent.

        fs: Hz, for files that state none (a table's ``fs`` column). Raises :class:`ReadError` naming the
        file.
        """
        from medfm import formats

        try:
            return self.from_signal(formats.read(path, fs=fs), quality)
        except ReadError as error:
            raise error if str(path) in str(error) else ReadError(f"{path}: {error}") from error

    def from_signal(self, signal: Signal, quality: bool = True) -> Sample:
        """The same from a :class:`Signal` (arrays of users, synthetic records, what ``formats.read``
        returns).

        Raises :class:`ReadError` for no channel, no lead that has a name, nothing recorded, or a grid that
        cannot carry an ECG. ``quality=False`` leaves out the findings that need beats and amplitudes (ingest
        has no use for them, and they cost more than the rest).
        """
        x, measured, found = self.leads_of(signal)
        if quality:
            found += assess(x, measured, signal.fs)
        filled, gap, bridged = bridge(x, round(self.max_gap * signal.fs))
        found += _gaps(gap, bridged, measured, signal.fs)
        filled = np.where(measured[:, None], filled, 0.0)
        if self.highpass:
            filled = highpass(filled, signal.fs, self.highpass)
        y = resample(filled, signal.fs, self.fs)
        y[resample_mask(gap, signal.fs, self.fs, y.shape[1]) | ~measured[:, None]] = np.nan
        y, derived = derive(y, measured)
        present = measured.copy()
        present[[LEADS.index(name) for name in derived]] = True
        if derived:
            found += (Finding("derived", f"{', '.join(derived)} derived from the other limb leads.", "info"),)
        present = present[self._rows]
        if not present.any():
            have = ", ".join(np.array(LEADS)[measured])
            raise ReadError(
                f"none of the model's leads ({', '.join(self.channels)}) is recorded; the file has {have}."
            )
        if absent := [lead for lead, there in zip(self.channels, present) if not there]:
            found += (Finding("absent", f"not recorded: {', '.join(absent)}.", "info"),)
        return Sample(
            x=np.ascontiguousarray(y[self._rows], np.float32),
            spacing=self.spacing,
            channels=self.channels,
            present=present,
            modality=self.name,
            record=signal.record,
            patient=signal.patient,
            findings=signal.findings + found,
        )

    def leads_of(self, signal: Signal) -> tuple[np.ndarray, np.ndarray, tuple[Finding, ...]]:
        """The standard twelve at the file's own rate: x float64 ``[12, T]`` in mV, measured bool ``[12]``,
        findings.

        A channel that never moves or holds no number carries no lead: it is reported, and absent.
        """
        if not len(signal.channels):
            raise ReadError("the record has no channel.")
        found = check_grid(signal.fs, signal.x.shape[1])
        resolution = resolve(signal.channels, self.alias)
        found += resolution.findings
        if not resolution.index:
            raise ReadError(
                f"no channel has the name of a lead (found: {_listed(signal.channels)}). Say which is "
                "which, for instance modality.alias.ECG=II (medfm data: --alias ECG=II)."
            )
        x = np.full((12, signal.x.shape[1]), np.nan)
        measured = np.zeros(12, bool)
        rows = [LEADS.index(lead) for lead in resolution.index]
        numbers = [number for number, _ in resolution.index.values()]
        signs = np.array([sign for _, sign in resolution.index.values()], float)
        millivolts, remarks = to_millivolts(signal.x[numbers], [signal.units[n] for n in numbers])
        found += remarks
        millivolts[~np.isfinite(millivolts)] = np.nan
        x[rows] = millivolts * signs[:, None]
        for row in rows:
            values = x[row][np.isfinite(x[row])]
            if not values.size or values.min() == values.max():
                what = "holds no number" if not values.size else "never moves"
                found += (
                    Finding(
                        "dead-lead", f"lead {LEADS[row]} {what}; it counts as absent.", "warning", LEADS[row]
                    ),
                )
                x[row] = np.nan
            else:
                measured[row] = True
        if not measured.any():
            raise ReadError(
                f"none of its leads ({_listed(list(resolution.index))}) carries a signal: "
                "all NaN or constant."
            )
        return x, measured, found

    # From mV to the network
    # ------------------------------------------------------------------------------------

    def normalise(self, x: np.ndarray, present: np.ndarray, copy: bool = True) -> np.ndarray:
        """``x [..., C, T]`` in mV -> the network's input, float32, clipped to +-clip; without ``copy``, in ``x``.

        ``present [..., C]``. An absent lead stays NaN. A gap or a padded end inside a present lead becomes
        0, which is the lead's mean, so that no NaN reaches a network from a lead that it is told to use.
        """
        x = np.array(x, np.float32) if copy else np.asarray(x, np.float32)
        if self.normalisation == "dataset":
            if self.mean is None or self.std is None:
                raise MedfmError(
                    "modality.normalise is 'dataset', but mean and std are not set: fit them on the training "
                    "data, load them with a bundle, or set modality.normalise=record."
                )
            x -= np.asarray(self.mean, np.float32)[:, None]
            x *= (1.0 / np.asarray(self.std, np.float64)).astype(np.float32)[:, None]
        elif self.normalisation == "record":
            mean, std = _moments(x)
            x -= mean[..., None]
            x /= np.maximum(std, 1e-3)[..., None]  # 1 microvolt: a flat lead stays flat
        np.clip(x, -self.clip, self.clip, out=x)
        broken = np.isnan(x.min(axis=-1))  # one pass: most leads have no NaN and are left alone
        if broken.any():
            x[broken] = np.nan_to_num(x[broken], nan=0.0)
        x[~np.asarray(present, bool)] = np.nan
        return x

    def prepare(self, sample: Sample) -> Sample:
        """The first ``size`` samples (a shorter record is padded at its end), normalised. Deterministic."""
        length = self.size[0]
        x = sample.x[:, :length]
        if x.shape[1] < length:
            x = np.pad(x, ((0, 0), (0, length - x.shape[1])), constant_values=np.nan)
        return sample.replace(x=self.normalise(x, sample.present))

    def fit(self, x: np.ndarray, present: np.ndarray) -> ECG:
        """A copy with the per-lead mean and deviation of training records ``x [B, C, T]`` (mV), ignoring NaN.

        A lead that no record has gets the deviation of the others: it is never shown to the network.
        """
        total, square, count = (
            np.zeros(len(self.channels)),
            np.zeros(len(self.channels)),
            np.zeros(len(self.channels)),
        )
        for record, there in zip(
            x, present
        ):  # one record at a time: a float64 copy of a corpus would not fit
            values = np.where(there[:, None] & np.isfinite(record), record, 0.0).astype(np.float64)
            total += values.sum(axis=1)
            square += np.square(values).sum(axis=1)
            count += (there[:, None] & np.isfinite(record)).sum(axis=1)
        if not count.any():
            raise MedfmError("mean and std cannot be fitted: the training records hold no sample.")
        mean = total / np.maximum(count, 1)
        std = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 0.0))
        usable = std > 1e-4
        std[~usable] = np.median(std[usable]) if usable.any() else 1.0
        return self.fitted(mean, std)

    def fitted(self, mean: Sequence[float] | np.ndarray, std: Sequence[float] | np.ndarray) -> ECG:
        """A copy with these statistics (mV, one a lead)."""
        settings = {key: value for key, value in self.settings().items() if key != "name"}
        return ECG(
            **{
                **settings,
                "mean": [round(float(v), 6) for v in mean],
                "std": [round(float(v), 6) for v in std],
            }
        )

    # Augmentation
    # ----------------------------------------------------------------------------------------------

    def augment_batch(
        self, x: np.ndarray, present: np.ndarray, rng: np.random.Generator, names: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """``x [B, C, T]`` in mV and ``present [B, C]`` through the named augmentations, in the order of the
        table.

        Returns new arrays; the same rng state gives the same batch. Raises :class:`MedfmError` on an unknown
        name.
        """
        for name in names:
            self.alters(name)  # an unknown one is said
        x, present = np.array(x, np.float32), np.array(present, bool)
        for name, augmentation in AUGMENTATIONS.items():
            if name in names:
                augmentation.apply(x, present, rng, self.fs, self._rows)
        return x, present

    def alters(self, name: str) -> frozenset[str]:
        """Kinds of label that an augmentation or a mix falsifies. Raises :class:`MedfmError` on an unknown
        name."""
        if name in MIX_ALTERS:
            return MIX_ALTERS[name]
        if name not in AUGMENTATIONS:
            raise MedfmError(f"unknown ECG augmentation {name}; known: {', '.join(AUGMENTATIONS)}.")
        return AUGMENTATIONS[name].alters

    def augment(self, sample: Sample, rng: np.random.Generator, names: Sequence[str] | None = None) -> Sample:
        """One record, augmented in mV (before :meth:`prepare`); all augmentations when no names are given."""
        names = tuple(AUGMENTATIONS) if names is None else names
        x, present = self.augment_batch(sample.x[None], sample.present[None], rng, names)
        return sample.replace(x=x[0], present=present[0])


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over time, NaN ignored; 0 and 0 for a lead without a sample."""
    finite = np.isfinite(x)
    count = np.maximum(finite.sum(axis=-1), 1)
    filled = np.where(finite, x, 0.0)
    mean = filled.sum(axis=-1) / count
    spread = np.where(finite, x - mean[..., None], 0.0)
    return mean.astype(np.float32), np.sqrt(np.square(spread).sum(axis=-1) / count).astype(np.float32)


def _gaps(gap: np.ndarray, bridged: np.ndarray, measured: np.ndarray, fs: float) -> tuple[Finding, ...]:
    found = []
    for row in np.flatnonzero(measured):
        if bridged[row]:
            text = f"lead {LEADS[row]}: {bridged[row] / fs:.3g} s of short gaps bridged."
            found.append(Finding("gap-bridged", text, "info", LEADS[row]))
        if gap[row].any():
            text = f"lead {LEADS[row]}: {gap[row].sum() / fs:.3g} s not recorded and left out."
            found.append(Finding("gap", text, "warning", LEADS[row]))
    return tuple(found)


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
