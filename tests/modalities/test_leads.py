from __future__ import annotations

import numpy as np
import pytest

from medfm.modalities.leads import LEADS, derive, parse, resolve
from medfm.types import MedfmError

SPELLINGS = {
    "I": ["I", "i", "Lead I (Einthoven)", "ECG I", "EKG I", "DI", "D1", "Lead 1",
          "lead1", "LEAD_I", "Lead-I", "I [mV]",
          "MDC_ECG_LEAD_I", "5.6.3-9-1", "LA-RA", "Ableitung I", "Ⅰ", "ecgI", "I导联", "Derivación I", " I "],
    "II": ["II", "ECG lead II", "DII", "ecg_lead_ii", "leadII", "MDC_ECG_LEAD_II", "II (mV)", "LL-RA"],
    "III": ["III", "iii", "Abl. III", "MDC_ECG_LEAD_III", "5.6.3-9-61", "Ⅲ"],
    "aVR": ["aVR", "AVR", "avr", "a VR", "aVR (Goldberger)", "Lead aVR (Goldberger, augmented)",
            "MDC_ECG_LEAD_AVR"],
    "aVL": ["aVL", "AVL", "Lead aVL", "5.6.3-9-63"],
    "aVF": ["aVF", "AvF", "ECG aVF"],
    "V1": ["V1", "v1", "V 1", "V01", "Lead V1 (Wilson)", "MDC_ECG_LEAD_V1", "ECG V1-Ref", "5.6.3-9-3"],
    "V6": ["V6", "Chest V6", "ecg:v6", "V6_mV", "MDC_ECG_ELEC_POTL_V6"],
}  # fmt: skip


@pytest.mark.parametrize(("lead", "name"), [(lead, n) for lead, names in SPELLINGS.items() for n in names])
def test_spellings(lead, name):
    assert parse(name) == (lead, 1, False)


@pytest.mark.parametrize("name", ["-aVR", "−aVR", "aVR-", "minus aVR", "MDC_ECG_LEAD_AVRneg", "ECG -aVR"])
def test_inverted_avr(name):
    assert parse(name) == ("aVR", -1, False)


@pytest.mark.parametrize(("name", "lead"), [("MLII", "II"), ("MCL1", "V1"), ("MV5", "V5")])
def test_modified(name, lead):
    assert parse(name) == (lead, 1, True)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ECG",
        "ECG 1",
        "EKG 2",
        "ch1",
        "V",
        "vx",
        "PLETH",
        "ABP",
        "RESP",
        "C3",
        "Fp2-F4",
        "col 0",
        "V7",
        "UNI",
    ],
)
def test_not_a_lead(name):
    assert parse(name) is None


def test_by_name_not_position():
    mimic = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
    index = resolve(mimic).index
    assert index["aVF"] == (4, 1) and index["aVL"] == (5, 1)


def test_dropped_channels_are_named():
    found = resolve(["MLII", "II", "V", "PLETH", "vx", "mystery", "-aVR"])
    assert found.index == {"II": (1, 1), "aVR": (6, -1)}  # the true II before the modified one
    assert {f.code: f.channel for f in found.findings if f.code != "modified-lead"} == {
        "unknown-lead": "mystery",
        "non-ecg-channel": "PLETH",
        "extra-lead": "vx",
        "inverted-lead": "aVR",
    }


def test_iec_names_only_as_a_set():
    assert set(resolve(["C1", "C2", "C3", "C4", "C5", "C6"]).index) == {"V1", "V2", "V3", "V4", "V5", "V6"}
    assert not resolve(["C3", "C4"]).index


def test_second_of_a_kind():
    found = resolve(["II", "II"])
    assert found.index == {"II": (0, 1)} and found.findings[0].code == "duplicate-lead"


def test_alias_comes_first():
    assert resolve(["ECG", "V1"], {"ecg": "II", "V1": "V2"}).index == {"II": (0, 1), "V2": (1, 1)}
    with pytest.raises(MedfmError, match="alias"):
        resolve(["ECG"], {"ECG": "seven"})


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5), (2, 3)])
def test_any_two_limb_leads_give_the_other_four(pair):
    # Electrode potentials decide every lead: I = LA - RA, II = LL - RA, III = LL - LA, and Goldberger's
    # against the mean.
    ra, la, ll = np.random.default_rng(1).normal(size=(3, 50))
    truth = np.array([la - ra, ll - ra, ll - la, ra - (la + ll) / 2, la - (ra + ll) / 2, ll - (ra + la) / 2])
    x, present = np.full((12, 50), np.nan), np.zeros(12, bool)
    x[list(pair)], present[list(pair)] = truth[list(pair)], True
    y, names = derive(x, present)
    assert np.abs(y[:6] - truth).max() < 1e-12
    assert names == tuple(LEADS[i] for i in range(6) if i not in pair)


def test_one_limb_lead_gives_nothing():
    x, present = np.full((12, 5), np.nan), np.zeros(12, bool)
    x[1], present[[1, 8]] = 1.0, True
    y, names = derive(x, present)
    assert names == () and np.isnan(y[0]).all()
