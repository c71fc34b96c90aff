"""PPG data sets on empty copies of their published layouts: which files are records, and whose."""

from __future__ import annotations

import pytest

from medfm.data import catalog
from medfm.types import MedfmError

# id: files of two people as published, and files beside them that are no records
LAYOUTS = {
    "bidmc": (
        ["bidmc01.hea", "bidmc53.hea"],
        ["bidmc01.dat", "bidmc01n.hea", "bidmc_csv/bidmc_01_Signals.csv", "bidmc_csv/bidmc_01_Fix.txt"],
    ),
    "ppg-dalia": (
        ["PPG_FieldStudy/S1/S1_E4.zip", "PPG_FieldStudy/S15/S15_E4.zip"],
        ["PPG_FieldStudy/S1/S1.pkl", "PPG_FieldStudy/S1/S1_RespiBAN.h5", "PPG_FieldStudy/S1/S1_quest.csv"],
    ),
    "wesad": (
        ["WESAD/S2/S2_E4_Data.zip", "WESAD/S17/S17_E4_Data.zip"],
        ["WESAD/S2/S2.pkl", "WESAD/S2/S2_respiban.txt", "WESAD/S2/S2_quest.csv"],
    ),
    "mesa-sleep": (
        ["polysomnography/edfs/mesa-sleep-0001.edf", "polysomnography/edfs/mesa-sleep-6800.edf"],
        ["polysomnography/annotations-events-nsrr/mesa-sleep-0001-nsrr.xml", "datasets/mesa-sleep-dataset-0.7.0.csv"],
    ),
    "mimic-perform-af": (
        [
            "mimic_perform_af_csv/mimic_perform_af_001_data.csv",
            "mimic_perform_non_af_csv/mimic_perform_non_af_001_data.csv",
        ],
        ["mimic_perform_af_csv/mimic_perform_af_001_fix.txt", "mimic_perform_train_all_csv/mimic_perform_train_all_001_data.csv"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_records_and_people(name, tmp_path):
    records, others = LAYOUTS[name]
    for file in (*records, *others):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    made = catalog.manifest(name, tmp_path)
    assert sorted(made.paths) == sorted(str((tmp_path / r).resolve()) for r in records)
    assert made.patients_known and len(set(made.patients)) == 2
    assert catalog.load(name).modality == "ppg" and not catalog.load(name).label_sets()


def test_another_folder_is_not_the_data_set(tmp_path):
    (tmp_path / "a.hea").touch()
    with pytest.raises(MedfmError, match=r"is not bidmc.*10\.13026/C2208R"):
        catalog.manifest("bidmc", tmp_path)


def test_terms_that_must_be_asked_for_are_told():
    assert (
        "agreement" in catalog.load("mesa-sleep").access
        and "sleepdata.org" in catalog.load("mesa-sleep").where()
    )
