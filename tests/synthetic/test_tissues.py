"""Attenuation of tissues against the published table, and the Hounsfield units that follow."""

import pytest

from medfm.synthetic.tissues import TISSUES, attenuation, hounsfield


@pytest.mark.parametrize(
    ("tissue", "kev", "mass", "density"),
    [  # NIST SRD 126, table 4, cm2/g; densities of ICRU 44, g/cm3
        ("bone", 60, 0.3148, 1.92),
        ("bone", 80, 0.2229, 1.92),
        ("soft", 60, 0.2048, 1.06),
        ("fat", 50, 0.2123, 0.95),
        ("lung", 40, 0.2701, 0.26),
        ("water", 60, 0.2059, 1.0),
        ("air", 80, 0.1662, 0.001205),
    ],
)
def test_attenuation_is_the_table_times_density(tissue, kev, mass, density):
    assert attenuation(tissue, kev) == pytest.approx(mass * density / 10, rel=1e-9)


def test_between_two_energies_logarithms_are_straight():
    middle = (50 * 60) ** 0.5
    assert attenuation("bone", middle) == pytest.approx((0.4242 * 0.3148) ** 0.5 * 0.192, rel=1e-9)
    assert all(attenuation(t, 45) > attenuation(t, 55) > attenuation(t, 75) for t in TISSUES)


def test_hounsfield_units_are_the_usual_ones():
    assert hounsfield("water") == 0 and hounsfield("air") == pytest.approx(-1000)
    assert -120 < hounsfield("fat") < -60 and 30 < hounsfield("soft") < 80
    assert -760 < hounsfield("lung") < -720 and hounsfield("bone") > 1500
    assert hounsfield("lung", density=0.52) == pytest.approx(2 * hounsfield("lung") + 1000, abs=3)
