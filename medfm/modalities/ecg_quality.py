"""Named findings about one ECG: what a technician would say before a cardiologist looks.

Everything works on the file's own sampling grid in mV, canonical lead order, before any bridge, filter or
derivation, so that a finding is about the recording and not about what was done to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfm.modalities.ecg_reversal import reversals
from medfm.modalities.ecg_signal import runs
from medfm.modalities.leads import LEADS, LIMB_OF_I_II
from medfm.types import Finding, ReadError

LOWEST_FS, LOW_FS, HIGHEST_FS = 50.0, 100.0, 20_000.0
SHORTEST, SHORT = 1.0, 2.5  # seconds: less holds no heartbeat; less than 2.5 s is no usual strip
FLAT = 0.005  # mV of deviation
LOUD, WILD = 10.0, 2.0  # mV: largest believable sample, largest believable deviation
EINTHOVEN, RESIDUAL = 0.36, 0.05  # residual as a share of the limb leads' own size, and in mV


def check_grid(fs: float, samples: int) -> tuple[Finding, ...]:
    """Refuse (:class:`ReadError`) what cannot hold an ECG, and remark on what is odd about rate and
    length."""
    if samples < 2:
        raise ReadError(f"the record has {samples} sample{'s' * (samples != 1)}: an ECG is a waveform.")
    if not np.isfinite(fs) or fs <= 0:
        raise ReadError(f"the sampling rate is {fs:g}: state it in the file's header.")
    if fs < LOWEST_FS:
        raise ReadError(
            f"the sampling rate of {fs:g} Hz is too low to carry a QRS complex (its energy reaches 25 Hz "
            f"and more); at least {LOWEST_FS:g} Hz is needed, 250 to 500 Hz is usual. Is the rate stated "
            "correctly?"
        )
    if fs > HIGHEST_FS:
        raise ReadError(f"a sampling rate of {fs:g} Hz is no ECG's; correct the rate in the file.")
    if samples / fs < SHORTEST:
        raise ReadError(
            f"the record lasts {samples / fs:.2f} s, too short to hold a heartbeat (at least {SHORTEST:g} s)."
        )
    found = []
    if fs < LOW_FS:
        found.append(
            Finding("low-sampling-rate", f"{fs:g} Hz rounds off the QRS complex; 250 Hz or more is usual.")
        )
    if samples / fs < SHORT:
        found.append(Finding("short", f"{samples / fs:.2f} s is shorter than the usual {SHORT:g} s strip."))
    return tuple(found)


def assess(
    x: np.ndarray, measured: np.ndarray, fs: float, leads: Sequence[str] = LEADS
) -> tuple[Finding, ...]:
    """All findings of ``x [12, T]`` (mV, canonical order, NaN where nothing was recorded).

    ``measured`` bool ``[12]`` marks leads that stand in the file. Long records are judged on their middle
    minute where beats are concerned.
    """
    found: list[Finding] = []
    sound = measured.copy()
    for lead in np.flatnonzero(measured).tolist():
        remarks = _lead(x[lead], fs, leads[lead])
        found += remarks
        sound[lead] &= not any(f.code in ("flat", "implausible-amplitude") for f in remarks)
    found += einthoven(x, measured, sound)
    middle = _middle(x, fs)
    found += reversals(middle, sound & np.isfinite(middle).all(axis=1), fs)
    return tuple(found)


def _lead(x: np.ndarray, fs: float, name: str) -> list[Finding]:
    values = x[np.isfinite(x)]
    found: list[Finding] = []
    if values.size < 2:
        return found
    deviation, peak = float(values.std()), float(np.abs(values - np.median(values)).max())
    if deviation < FLAT:
        return [
            Finding(
                "flat", f"lead {name} is flat ({deviation * 1000:.1f} microvolts of deviation).", channel=name
            )
        ]
    if peak > LOUD or deviation > WILD:
        found.append(
            Finding(
                "implausible-amplitude",
                f"lead {name} reaches {peak:.1f} mV (deviation {deviation:.2f} mV): artefact, or a wrong "
                "gain.",
                channel=name,
            )
        )
    if (still := _longest_still(x)) / fs >= 1.0:
        found.append(
            Finding("flat-stretch", f"lead {name} stands still for {still / fs:.1f} s.", channel=name)
        )
    if (share := clipped(x, fs)) > 0:
        found.append(
            Finding("clipped", f"lead {name} is clipped: {share:.1%} of it lies on its limit.", channel=name)
        )
    return found


def _longest_still(x: np.ndarray) -> int:
    stretches = runs(np.diff(x) == 0)
    return max((stop - start + 1 for start, stop in stretches), default=0)


def clipped(x: np.ndarray, fs: float) -> float:
    """Share of a lead that lies on its own upper or lower limit; 0 when it is not clipped.

    A limit is where the extreme value itself is held for 8 ms (at least three samples) three times or more,
    or once for 60 ms: a quantised wave touches its extreme for a sample or two, an amplifier rests on it.
    """
    finite = np.where(np.isfinite(x), x, np.nanmedian(x))
    low, high = float(finite.min()), float(finite.max())
    if high - low < 0.2:  # mV: quantisation alone repeats the extremes of a lead as small as this
        return 0.0
    hold, long = max(3, round(0.008 * fs)), max(5, round(0.06 * fs))
    total = 0
    for limit in (low, high):
        held = [stop - start for start, stop in runs(finite == limit) if stop - start >= hold]
        if len(held) >= 3 or any(h >= long for h in held):
            total += sum(held)
    return total / len(x)


def einthoven(x: np.ndarray, measured: np.ndarray, sound: np.ndarray) -> list[Finding]:
    """Does II = I + III, and do the augmented leads follow? A law between electrodes that only a mix-up can
    break.

    ``einthoven-residual`` names the identities that fail; ``einthoven-not-assessable`` says that fewer than
    three limb leads were recorded, so that there is nothing independent to test.
    """
    limb = np.flatnonzero(measured[:6]).tolist()
    if len(limb) < 3:
        if len(limb) == 2:
            two = " and ".join(LEADS[i] for i in limb)
            text = f"only {two} were recorded of the limb leads: Einthoven's law is not assessable."
            return [Finding("einthoven-not-assessable", text, "info")]
        return []
    limb = np.flatnonzero(sound[:6]).tolist()
    if len(limb) < 3:
        return [
            Finding("einthoven-not-assessable", "too many flat limb leads to test Einthoven's law.", "info")
        ]
    clean = np.isfinite(x[limb]).all(axis=0)
    if clean.sum() < 2:
        return [
            Finding("einthoven-not-assessable", "the limb leads are never recorded at the same time.", "info")
        ]
    level = x[limb][:, clean]
    level = level - np.median(level, axis=1, keepdims=True)
    rows = np.array([LIMB_OF_I_II[LEADS[i]] for i in limb])
    base = [limb.index(0), limb.index(1)] if {0, 1} <= set(limb) else list(range(len(limb)))
    dipole = np.linalg.pinv(rows[base]) @ level[base]
    size = float(np.sqrt(np.mean(np.square(level))))
    residual = np.sqrt(np.mean(np.square(level - rows @ dipole), axis=1))
    if len(base) > 2:
        residual *= np.sqrt(len(limb) / (len(limb) - 2))  # least squares shares one lead's fault among all
    bad = [LEADS[i] for i, r in zip(limb, residual) if r > max(EINTHOVEN * size, RESIDUAL)]
    if not bad:
        return []
    worst = float(residual.max())
    message = (
        f"the limb leads contradict each other (residual {worst:.2f} mV in {', '.join(bad)}): leads are "
        "mislabelled, scaled differently or not simultaneous."
    )
    return [Finding("einthoven-residual", message, "warning", bad[0] if len(bad) == 1 else None)]


def _middle(x: np.ndarray, fs: float, seconds: float = 60.0) -> np.ndarray:
    room = x.shape[1] - round(seconds * fs)
    return x if room <= 0 else x[:, room // 2 : room // 2 + round(seconds * fs)]
