"""What tissues do to X-rays: attenuation by photon energy, and the Hounsfield units that follow from it.

Mass attenuation coefficients: Hubbell and Seltzer, NIST Standard Reference Database 126 (X-Ray Mass
Attenuation Coefficients, table 4; tissues of ICRU Report 44). Densities: ICRU Report 44; inflated lung holds
0.26 g of tissue in a millilitre, and its other parts are air.
"""

from __future__ import annotations

import numpy as np

ENERGIES_KEV = (40.0, 50.0, 60.0, 80.0)
# mass attenuation, cm2/g, at ENERGIES_KEV, and density, g/cm3
_TABLE: dict[str, tuple[tuple[float, float, float, float], float]] = {
    "air": ((0.2485, 0.2080, 0.1875, 0.1662), 0.001205),
    "water": ((0.2683, 0.2269, 0.2059, 0.1837), 1.00),
    "fat": ((0.2396, 0.2123, 0.1974, 0.1800), 0.95),
    "soft": ((0.2688, 0.2264, 0.2048, 0.1823), 1.06),
    "lung": ((0.2701, 0.2270, 0.2053, 0.1826), 0.26),
    "bone": ((0.6655, 0.4242, 0.3148, 0.2229), 1.92),
    "titanium": ((2.214, 1.213, 0.7661, 0.4052), 4.54),
}
TISSUES = tuple(_TABLE)


def attenuation(tissue: str, kev: float, density: float | None = None) -> float:
    """Linear attenuation coefficient, 1/mm, at ``kev`` (40 to 80): straight lines through the logarithms of the
    table. ``density`` in g/cm3 replaces the table's (a lung may be more or less inflated)."""
    mass, usual = _TABLE[tissue]
    assert ENERGIES_KEV[0] <= kev <= ENERGIES_KEV[-1], "outside the table of attenuation coefficients"
    per_gram = np.exp(np.interp(np.log(kev), np.log(ENERGIES_KEV), np.log(mass)))
    return float(per_gram) * (usual if density is None else density) / 10.0


def hounsfield(tissue: str, kev: float = 60.0, density: float | None = None) -> float:
    """``1000 (mu - mu_water) / (mu_water - mu_air)``, HU."""
    water, air = attenuation("water", kev), attenuation("air", kev)
    return 1000.0 * (attenuation(tissue, kev, density) - water) / (water - air)
