"""The PPG: one to four wavelengths of light by name, filtered to the pulse's band on one sampling grid, and what was wrong.

Shapes: C channels (order of the settings), T samples. Filter, window and z-score of PaPaGei (arXiv 2410.20542) are the
defaults: Chebyshev II 0.5 to 12 Hz and 50 ms smoothing at the file's own rate, 125 Hz, 10 s; all of it is a setting.
Acceleration and ECG may stand beside the light. What is missing, and what is too poor to use, is NaN, never 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medfm.modalities import ppg_quality
from medfm.modalities.ecg_signal import bridge, highpass, resample, resample_mask
from medfm.modalities.ppg_augment import AUGMENTATIONS, MIX_ALTERS
from medfm.modalities.ppg_channels import CHANNELS, LIGHT, WAVELENGTHS, check_alias, resolve
from medfm.modalities.ppg_filter import bandpass, check_band, smooth, zscore
from medfm.types import Finding, MedfmError, ReadError, Sample, Signal

SLOWEST, FASTEST, SHORTEST = 5.0, 5000.0, 1.0  # Hz, Hz, seconds


class PPG:
    """The PPG modality. Keywords are the fields of ``PPGSettings``; :meth:`settings` gives them back.

    channels: one to four of ppg, green, red, infrared, blue, then acc (magnitude) or acc_x, acc_y, acc_z, and ecg. fs, Hz
    and seconds: its window. highpass, lowpass, Hz and smooth, s: its filter. polarity: ``auto``, ``keep``, ``invert``.
    normalise: z-score over the ``record`` (when it is read), the ``window``, or ``none``. min_quality: see
    :mod:`medfm.modalities.ppg_quality`. Raises :class:`MedfmError` on settings that contradict each other.
    """

    name = "ppg"
    rank = 1

    def __init__(
        self,
        channels: Sequence[str] = ("ppg",),
        fs: float = 125.0,
        seconds: float = 10.0,
        highpass: float = 0.5,
        lowpass: float = 12.0,
        smooth: float = 0.05,
        polarity: str = "auto",
        normalise: str = "window",
        min_quality: float = 0.7,
        max_gap: float = 0.2,
        alias: Mapping[str, str] | None = None,
    ) -> None:
        if unknown := [c for c in channels if c not in CHANNELS]:
            raise MedfmError(
                f"modality.channels: {', '.join(unknown)} is no channel; use {', '.join(CHANNELS)}."
            )
        light = [i for i, c in enumerate(channels) if c in WAVELENGTHS]
        if len(set(channels)) != len(channels) or not 1 <= len(light) <= 4:
            raise MedfmError("modality.channels must name one to four wavelengths, and each channel once.")
        if max(lowpass, highpass) >= fs / 2:
            raise MedfmError(
                f"modality.lowpass ({max(lowpass, highpass):g} Hz) must lie below half of modality.fs ({fs:g} Hz)."
            )
        if lowpass and highpass >= lowpass:
            raise MedfmError(
                f"modality.highpass ({highpass:g} Hz) must lie below modality.lowpass ({lowpass:g} Hz)."
            )
        self.channels: tuple[str, ...] = tuple(channels)
        self.fs, self.seconds = float(fs), float(seconds)
        self.highpass, self.lowpass, self.smooth = float(highpass), float(lowpass), float(smooth)
        self.polarity, self.normalisation = polarity, normalise
        self.min_quality, self.max_gap = float(min_quality), float(max_gap)
        self.alias = dict(alias or {})
        self._alias = check_alias(self.alias)
        self._light = light

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
        """Plain JSON that rebuilds this modality through ``PPGSettings``; it travels in the bundle."""
        return {
            "name": self.name,
            "channels": list(self.channels),
            "fs": self.fs,
            "seconds": self.seconds,
            "highpass": self.highpass,
            "lowpass": self.lowpass,
            "smooth": self.smooth,
            "polarity": self.polarity,
            "normalise": self.normalisation,
            "min_quality": self.min_quality,
            "max_gap": self.max_gap,
            "alias": dict(self.alias),
        }

    def ingest_settings(self) -> dict[str, Any]:
        """The settings that shape a stored record: all but a z-score over the window, which a batch gets, and a window
        that judges nothing."""
        stored = self.settings()
        if self.normalisation != "record":
            del stored["normalise"]
        if not self.min_quality:
            del stored["seconds"]
        return stored

    # Reading
    # ---------------------------------------------------------------------------------------------------

    def read(self, path: str | Path, fs: float | None = None, quality: bool = True) -> Sample:
        """One file as a :class:`Sample`: x float32 ``[C, T]`` filtered, at ``fs``, any length, NaN where absent.

        fs: Hz, for files that state none (a table's ``fs`` column). Raises :class:`ReadError` naming the file.
        """
        from medfm import formats

        try:
            return self.from_signal(formats.read(path, fs=fs), quality)
        except ReadError as error:
            raise error if str(path) in str(error) else ReadError(f"{path}: {error}") from error

    def from_signal(self, signal: Signal, quality: bool = True) -> Sample:
        """The same from a :class:`Signal`.

        Raises :class:`ReadError` for no such channel, a rate that cannot carry the band, nothing recorded, or no window
        that is good enough. Windows of low quality become NaN whatever ``quality`` says; without it only the findings
        that describe a usable record are left out (ingest has no use for them).
        """
        found = self._check_grid(signal)
        raw, remarks = self._rows(signal)
        found += remarks
        moving = np.array([ppg_quality.moves(row) for row in raw])
        for c in np.flatnonzero(~moving & np.isfinite(raw).any(1)):
            text = f"{self.channels[c]} never moves; it counts as absent."
            found += (Finding("flat", text, "warning", self.channels[c]),)
        if not moving[self._light].any():
            raise ReadError(
                "its PPG holds no number or never moves (all flat); check the sensor's contact, or leave the file out."
            )
        present = moving.copy()
        filled, gap, bridged = bridge(raw, round(self.max_gap * signal.fs))
        filled = np.where(present[:, None], filled, 0.0)
        filtered = self._filtered(filled, signal.fs)
        found += self._turn(filtered, present, signal.fs)
        if self.min_quality:
            masked = np.where(gap, np.nan, filtered)
            found += self._set_aside(masked, raw, gap, present, signal.fs)
        y = resample(filtered, signal.fs, self.fs)
        y[resample_mask(gap, signal.fs, self.fs, y.shape[1]) | ~present[:, None]] = np.nan
        if self.normalisation == "record":
            y = zscore(y)
        if quality:
            found += self._remarks(signal, raw, gap, bridged, present)
        return Sample(
            x=np.ascontiguousarray(y, np.float32),
            spacing=self.spacing,
            channels=self.channels,
            present=present,
            modality=self.name,
            record=signal.record,
            patient=signal.patient,
            findings=signal.findings + found,
        )

    def condition(self, x: np.ndarray, fs: float | None = None) -> np.ndarray:
        """Records ``x [..., C, T]`` of the model's channels through the filter at ``fs`` Hz (None: the model's), float32.

        For generated records, which need no judgement: NaN stays, nothing is turned, resampled or set aside.
        """
        fs = self.fs if fs is None else fs
        missing = ~np.isfinite(x)
        flat = np.where(missing, np.nan, x).reshape(-1, *x.shape[-2:])
        done = [self._filtered(np.nan_to_num(bridge(record, 0)[0]), fs) for record in flat]
        return np.where(missing, np.nan, np.reshape(done, x.shape)).astype(np.float32)

    def assess(self, sample: Sample) -> dict[str, list[ppg_quality.Quality]]:
        """Quality of each window of ``seconds`` of a record that was read (:meth:`read`), by optical channel that it has."""
        cuts = ppg_quality.cuts(sample.x.shape[1], round(self.seconds * self.fs))
        return {
            self.channels[c]: [
                ppg_quality.assess(sample.x[c, a:b], sample.x[c, a:b], self.fs, self.min_quality)
                for a, b in cuts
            ]
            for c in self._light
            if sample.present[c]
        }

    def _check_grid(self, signal: Signal) -> tuple[Finding, ...]:
        fs, samples = signal.fs, signal.x.shape[1]
        if not SLOWEST <= fs <= FASTEST:
            likely = "milliseconds" if fs < SLOWEST else "seconds"
            raise ReadError(
                f"a sampling rate of {fs:g} Hz is no PPG's ({SLOWEST:g} to {FASTEST:g} Hz): is its time column in "
                f"{likely}, or its rate stated wrongly? Correct it, or give the rate (a table's 'fs' column)."
            )
        if samples / fs < SHORTEST:
            raise ReadError(f"the record lasts {samples / fs:.2f} s, too short to hold a pulse.")
        check_band(fs, self.highpass, self.lowpass)
        if abs(fs - self.fs) < 1e-6 * fs:
            return ()
        text = f"recorded at {fs:g} Hz, brought to the model's {self.fs:g} Hz"
        text += f": it holds nothing above {fs / 2:g} Hz." if fs < self.fs else "."
        return (Finding("resampled", text, "info"),)

    def _rows(self, signal: Signal) -> tuple[np.ndarray, tuple[Finding, ...]]:
        """The model's channels ``[C, T]`` as recorded, float64, NaN where the file has none."""
        index, found = resolve(signal.channels, self._alias)
        x = np.full((len(self.channels), signal.x.shape[1]), np.nan)
        for c, channel in enumerate(self.channels):
            if channel in index:
                x[c] = signal.x[index[channel]]
            elif channel == "acc" and all(f"acc_{axis}" in index for axis in "xyz"):
                x[c] = np.linalg.norm(
                    signal.x[[index[f"acc_{axis}"] for axis in "xyz"]].astype(float), axis=0
                )
            elif channel == "ppg" and (stand := self._stand_in(signal, index)):
                x[c] = signal.x[index[stand]]
                text = f"the file has no channel called PPG; {stand} stands for it, which has the clearest pulse."
                found.append(Finding("channel-chosen", text, "info", channel))
        absent = [c for c, row in zip(self.channels, x) if not np.isfinite(row).any()]
        if all(np.isnan(x[c]).all() for c in self._light):
            have = ", ".join(n or "(no name)" for n in signal.channels[:12])
            raise ReadError(
                f"no channel has the name of a PPG ({', '.join(self.channels)}; found: {have}). Say which is which, "
                f"for instance modality.alias.{signal.channels[0] or 'NAME'}={self.channels[self._light[0]]}."
            )
        if absent:
            found.append(Finding("absent", f"not recorded: {', '.join(absent)}.", "info"))
        return x, tuple(found)

    def _stand_in(self, signal: Signal, index: dict[str, int]) -> str:
        """The wavelength with the clearest pulse (spectral share), empty where the file has none."""
        shares = {}
        for channel in (c for c in LIGHT if c in index and ppg_quality.moves(signal.x[index[c]])):
            filled = bridge(signal.x[index[channel]][None], 0)[0]
            shares[channel] = ppg_quality.spectral_share(
                self._filtered_light(filled, signal.fs)[0], signal.fs
            )
        return max(shares, key=shares.__getitem__, default="")

    def _filtered_light(self, x: np.ndarray, fs: float) -> np.ndarray:
        return smooth(bandpass(x, fs, self.highpass, self.lowpass), fs, self.smooth)

    def _filtered(self, x: np.ndarray, fs: float) -> np.ndarray:
        """Finite ``x [C, T]``: light through the band, an ECG without its baseline, acceleration as it is."""
        y = np.array(x, float)
        y[self._light] = self._filtered_light(y[self._light], fs)
        if "ecg" in self.channels:
            row = [self.channels.index("ecg")]
            y[row] = highpass(y[row], fs, 0.5)
        return y

    def _turn(self, x: np.ndarray, present: np.ndarray, fs: float) -> tuple[Finding, ...]:
        """Turn inverted optical channels of ``x`` in place, and say which, and which cannot be told."""
        found = []
        for c in self._light:
            if not present[c]:
                continue
            lean, name = ppg_quality.upright(x[c], fs), self.channels[c]
            turned = self.polarity == "invert" or (self.polarity == "auto" and lean < -ppg_quality.SKEWED)
            if turned:
                x[c] *= -1
            if turned and self.polarity == "auto":
                text = f"{name} was upside down (it falls faster than it rises) and was turned; modality.polarity=keep leaves it."
                found.append(Finding("inverted", text, "warning", name))
            elif abs(lean) <= ppg_quality.SKEWED:
                text = f"which way up {name} is cannot be told from its pulses; it was taken as it is."
                found.append(Finding("polarity-unclear", text, "warning", name))
            elif (lean < 0) != turned:
                text = (
                    f"{name} looks upside down after modality.polarity={self.polarity}; auto would turn it."
                )
                found.append(Finding("polarity-odd", text, "warning", name))
        return tuple(found)

    def _set_aside(
        self, x: np.ndarray, raw: np.ndarray, gap: np.ndarray, present: np.ndarray, fs: float
    ) -> tuple[Finding, ...]:
        """Mark windows of low quality in ``gap``, and channels without a good one as not ``present``, in place. Where no
        light is left, acceleration and ECG are set aside with it."""
        cuts = ppg_quality.cuts(x.shape[1], round(self.seconds * fs))
        found, said = [], ""
        for c in (c for c in self._light if present[c]):
            name, bad = self.channels[c], []
            for a, b in cuts:
                verdict = ppg_quality.assess(x[c, a:b], raw[c, a:b], fs, self.min_quality)
                if verdict.reason:
                    gap[c, a:b] = True
                    bad.append(verdict.reason)
            if bad:
                why = ", ".join(f"{n} {reason}" for reason, n in Counter(bad).most_common())
                said = f"{len(bad)} of {len(cuts)} windows of {self.seconds:g} s of {name} set aside as of low quality ({why})"
                found.append(Finding("low-quality", f"{said}.", "warning", name))
            present[c] = len(bad) < len(cuts)
        lit = [c for c in self._light if present[c]]
        if not lit:
            raise ReadError(
                f"no usable pulse: {said}. Is its sampling rate ({fs:g} Hz) right? modality.min_quality=0 keeps such records."
            )
        gap[:, gap[lit].all(0)] = True
        return tuple(found)

    def _remarks(
        self, signal: Signal, raw: np.ndarray, gap: np.ndarray, bridged: np.ndarray, present: np.ndarray
    ) -> tuple[Finding, ...]:
        found = []
        for c in np.flatnonzero(present):
            name, lost = self.channels[c], np.isnan(raw[c]).sum() - bridged[c]
            if bridged[c]:
                text = f"{name}: {bridged[c] / signal.fs:.3g} s of short gaps bridged."
                found.append(Finding("gap-bridged", text, "info", name))
            if lost:
                text = f"{name}: {lost / signal.fs:.3g} s not recorded and masked."
                found.append(Finding("gap", text, "warning", name))
        held = signal.x.shape[1] / signal.fs
        if held < 0.95 * self.seconds:
            text = f"{held:.3g} s of a window of {self.seconds:g} s: the other {1 - held / self.seconds:.0%} is masked."
            found.append(Finding("short", text, "warning"))
        return tuple(found)

    # To the network
    # ------------------------------------------------------------------------------------

    def normalise(self, x: np.ndarray, present: np.ndarray, copy: bool = True) -> np.ndarray:
        """``x [..., C, T]`` -> the network's input, float32; without ``copy``, in ``x``.

        ``present [..., C]``. Mean and deviation are of what was recorded: neither a gap nor a padded end counts. An absent
        channel stays NaN. A gap in a present one becomes 0, its mean, only here, so that no NaN reaches a network.
        """
        x = np.array(x, np.float32) if copy else np.asarray(x, np.float32)
        if self.normalisation == "window":
            x[...] = zscore(x)
        broken = np.isnan(x.min(axis=-1))
        if broken.any():
            x[broken] = np.nan_to_num(x[broken], nan=0.0)
        x[~np.asarray(present, bool)] = np.nan
        return x

    def prepare(self, sample: Sample) -> Sample:
        """The first window of ``size`` samples of which half is recorded (else the first), normalised. Deterministic.

        What a shorter record lacks is masked first; a channel of which the window holds nothing is not ``present``.
        """
        length = self.size[0]
        x = np.pad(sample.x, ((0, 0), (0, -sample.x.shape[1] % length)), constant_values=np.nan)
        windows = x.reshape(len(x), -1, length)
        held = np.isfinite(windows[self._light]).mean(-1).max(0)
        chosen = windows[:, int(np.argmax(held >= 0.5))]
        present = sample.present & np.isfinite(chosen).any(-1)
        return sample.replace(x=self.normalise(chosen, present), present=present)

    # Augmentation
    # ----------------------------------------------------------------------------------------------

    def augment_batch(
        self, x: np.ndarray, present: np.ndarray, rng: np.random.Generator, names: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """``x [B, C, T]`` as stored and ``present [B, C]`` through the named augmentations, in the table's order.

        Returns new arrays; the same rng state gives the same batch. Raises :class:`MedfmError` on an unknown name.
        """
        for name in names:
            self.alters(name)  # an unknown one is said
        x, present = np.array(x, np.float32), np.array(present, bool)
        for name, augmentation in AUGMENTATIONS.items():
            if name in names:
                augmentation.apply(x, present, rng, self.fs, self._light)
        return x, present

    def alters(self, name: str) -> frozenset[str]:
        """Kinds of label that an augmentation or a mix falsifies. Raises :class:`MedfmError` on an unknown name."""
        if name in MIX_ALTERS:
            return MIX_ALTERS[name]
        if name not in AUGMENTATIONS:
            raise MedfmError(f"unknown PPG augmentation {name}; known: {', '.join(AUGMENTATIONS)}.")
        return AUGMENTATIONS[name].alters

    def augment(self, sample: Sample, rng: np.random.Generator, names: Sequence[str] | None = None) -> Sample:
        """One record, augmented (before :meth:`prepare`); all augmentations when no names are given."""
        names = tuple(AUGMENTATIONS) if names is None else names
        x, present = self.augment_batch(sample.x[None], sample.present[None], rng, names)
        return sample.replace(x=x[0], present=present[0])
