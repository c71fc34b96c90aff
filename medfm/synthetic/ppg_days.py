"""When a recording is made and what its wearer does: the hour, the activity, and what both change in the body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medfm.synthetic.draws import Draws
from medfm.synthetic.ppg_subjects import DEVICE_SHARES, DEVICES, People

ACTIVITIES = ("sleep", "rest", "daily", "walk")
# By activity: rate, breathing rate (factors), mean pressure (mmHg)
_RATE = np.array([0.88, 1.0, 1.10, 1.28])
_BREATH = np.array([0.90, 1.0, 1.08, 1.30])
_PRESSURE = np.array([-8.0, 0.0, 4.0, 10.0])
_HOURS_BETWEEN = 7.0  # so that few recordings already meet day and night


@dataclass(frozen=True)
class Day:
    """The state of n recordings, ``[n]`` each. time_h: since the person's first midnight, h; hour: of the day; activity: row
    of ``ACTIVITIES``; rate: per minute, in sinus rhythm; breath_hz; breath_phase; pressure: change of the mean arterial
    pressure from usual, mmHg; tone: of the vessels of the skin, -0.15 (warm) to 0.15 (cold); perfusion: AC over DC of the
    device's own wavelength; stiffness: index, m/s; device: row of ``DEVICES``."""

    time_h: np.ndarray
    hour: np.ndarray
    activity: np.ndarray
    rate: np.ndarray
    breath_hz: np.ndarray
    breath_phase: np.ndarray
    pressure: np.ndarray
    tone: np.ndarray
    perfusion: np.ndarray
    stiffness: np.ndarray
    device: np.ndarray


def draw_day(subject: Draws, d: Draws, people: People, record: np.ndarray) -> Day:
    """record ``[n]``: which of the person's recordings, 0 upwards; they are some seven hours apart."""
    begin = subject.uniform(6.0, 14.0)
    time_h = begin + _HOURS_BETWEEN * record + d.uniform(-2.5, 2.5)
    hour = time_h % 24
    home = d.chance(0.8)
    device = np.where(home, people.device, d.pick(DEVICE_SHARES))
    loose = np.array([k.loose for k in DEVICES])[device]
    lot = d.uniform()
    awake = 1 + (lot > 0.55).astype(int) + (lot > 1 - 0.18 * loose).astype(int)
    activity = np.where((hour < 6.5) | (hour >= 23), 0, awake)
    night = 0.04 * np.cos(2 * np.pi * (hour - 16) / 24)  # the heart is fastest in the afternoon
    rate = people.rate * d.lognormal(1.0, 0.05) * (1 + night) * _RATE[activity]
    pressure = _PRESSURE[activity] + d.normal(0, 4.0)
    tone = d.normal(0, 0.06).clip(-0.15, 0.15)
    own = np.array([k.perfusion for k in DEVICES])[device]
    return Day(
        time_h=time_h,
        hour=hour,
        activity=activity,
        rate=rate.clip(34.0, 170.0),
        breath_hz=(people.breath_hz * _BREATH[activity] * d.lognormal(1.0, 0.06)).clip(0.14, 0.5),
        breath_phase=d.uniform(0, 2 * np.pi),
        pressure=pressure,
        tone=tone,
        # Narrow vessels hold less blood and reflect more.
        perfusion=own * people.perfusion * d.lognormal(1.0, 0.2) * np.exp(-4 * tone),
        stiffness=(people.stiffness + 0.03 * pressure).clip(3.5, 13.5),
        device=device,
    )
