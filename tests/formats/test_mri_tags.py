"""Which sequence an MR series is by its header. Times are those of published protocols: MPRAGE 1900/2.97/1100 ms of
Vestibular-Schwannoma-SEG, spin echo T1 600/12, T2 4000/100, FLAIR 9000/110/2500."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from mri_trees import FLAIR, SE_T1, SE_T2, write_mr
from pydicom.dataset import Dataset

from medfm.formats.mri_study import find_studies
from medfm.formats.mri_tags import MRTags, sequence_by_tags, tags_of
from medfm.formats.volume import read_volume
from medfm.modalities.mri_sequences import SEQUENCES, sequence_of

NOTHING = MRTags(
    "", "", frozenset(), frozenset(), ("ORIGINAL", "PRIMARY", "M"), None, None, None, None, "", ""
)
MPRAGE = replace(
    NOTHING, scanning=frozenset({"GR", "IR"}), variant=frozenset({"SP", "MP"}), tr=1900.0, te=2.97, ti=1100.0
)


def times(tr: float, te: float, ti: float | None = None, *scanning: str) -> MRTags:
    return replace(NOTHING, tr=tr, te=te, ti=ti, scanning=frozenset(scanning or ("SE",)))


@pytest.mark.parametrize(
    ("tags", "name", "why"),
    [
        (replace(MPRAGE, description="t1_mpr_tra"), "t1", "no contrast agent is stated"),
        (replace(MPRAGE, description="t1_mpr_tra", agent="Dotarem"), "t1ce", "(Dotarem)"),
        (replace(MPRAGE, description="AX T1 +C"), "t1ce", "'+c'"),
        (replace(MPRAGE, description="T1 SE nach KM"), "t1ce", "'km'"),
        (replace(MPRAGE, description="T1 PRE GAD", agent="Gadavist"), "t1", "'pre': before contrast"),
        (MPRAGE, "t1", "TR 1900, TE 2.97, TI 1100 ms"),
        (times(600, 12), "t1", "those of a T1"),
        (times(4000, 100), "t2", "those of a T2"),
        (times(4000, 15), "pd", "those of a PD"),
        (times(9000, 110, 2500, "SE", "IR"), "flair", "those of a FLAIR"),
        (times(2000, 20, 800, "SE", "IR"), "t1", "those of a T1"),
        (replace(times(2000, 20, 800), description="AX T1 FLAIR"), "t1", "AX T1 FLAIR"),
        (replace(times(9000, 130, 2500), description="t2_tirm_tra_dark-fluid"), "flair", "dark-fluid"),
        (replace(times(9.0, 4.2, None, "GR"), variant=frozenset({"SS"}), description="t2_ci3d_tra"), "t2", "t2_ci3d"),
        (replace(NOTHING, protocol="Brain T2 tse"), "t2", "ProtocolName"),
        (replace(NOTHING, description="ep2d_diff_tra"), "dwi", "diffusion"),
        (replace(times(4000, 80), b_value=1000.0, description="T2 b1000"), "dwi", "b-value of 1000"),
        (replace(NOTHING, description="ax T2* GRE"), "swi", "susceptibility"),
        (replace(NOTHING, description="ax dsc perfusion"), "perfusion", "perfusion"),
    ],
)  # fmt: skip
def test_sequences(tags: MRTags, name: str, why: str) -> None:
    found, reason = sequence_by_tags(tags)
    assert found == name and why in reason


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        (replace(times(600, 12), description="T2 TSE"), "says T2, but TR 600, TE 12 ms are those of a T1"),
        (times(1500, 50), "neither its description '' nor its times (TR 1500, TE 50 ms)"),
        (times(4000, 40, 160, "SE", "IR"), "neither"),  # STIR
        (NOTHING, "no times stated"),
        (replace(MPRAGE, image_type=("DERIVED", "SECONDARY", "MPR"), description="T1 COR"), "reformatted"),
        (
            replace(MPRAGE, image_type=("DERIVED", "SECONDARY"), description="T1"),
            "computed from other series",
        ),
        (replace(MPRAGE, image_type=("ORIGINAL", "PRIMARY", "P"), description="T1"), "no magnitude"),
        (replace(NOTHING, description="3-plane loc"), "a localizer"),
        (replace(NOTHING, description="TOF_3D"), "an angiogram"),
        (replace(NOTHING, description="T1 SUB"), "a subtraction"),
        (times(3000, 100, None, "EP"), "echo-planar"),
    ],
)
def test_what_is_left_out(tags: MRTags, why: str) -> None:
    found, reason = sequence_by_tags(tags)
    assert found is None and why in reason


def test_an_enhanced_header_has_its_times_in_groups() -> None:
    data, shared, echo, timing, modifier, frame, diffusion = (Dataset() for _ in range(7))
    echo.EffectiveEchoTime, timing.RepetitionTime, modifier.InversionTimes = 110.0, 9000.0, [2500.0]
    shared.MREchoSequence, shared.MRTimingAndRelatedParametersSequence = [echo], [timing]
    shared.MRModifierSequence = [modifier]
    data.SharedFunctionalGroupsSequence, data.EchoPulseSequence = [shared], "SPIN"
    tags = tags_of(data)
    assert (tags.te, tags.tr, tags.ti, tags.scanning) == (110.0, 9000.0, 2500.0, {"SE"})
    assert sequence_by_tags(tags)[0] == "flair"
    diffusion.DiffusionBValue = 800.0
    frame.MRDiffusionSequence = [diffusion]
    data.PerFrameFunctionalGroupsSequence = [frame]
    assert sequence_by_tags(tags_of(data))[0] == "dwi"


@pytest.mark.parametrize("agent", ["", "NONE", "no", "0"])
def test_a_blank_agent_is_none(agent: str) -> None:
    data = Dataset()
    data.ContrastBolusAgent, data.SeriesDescription = agent, "T1"
    assert sequence_by_tags(tags_of(data))[0] == "t1"


# Studies
# ----------------------------------------------------------------------------------------------------------------------


def wanted(name: str) -> str | None:
    return sequence_of(name, SEQUENCES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("studies")
    write_mr(root / "a", "T1 SE", number=1, InstitutionName="North", **SE_T1)
    write_mr(root / "b", "T1 SE", number=2, ContrastBolusAgent="Dotarem", slices=6, **SE_T1)
    write_mr(root / "c", "T1 thick", number=3, ContrastBolusAgent="Dotarem", slices=4, **SE_T1)
    write_mr(root / "d", "", number=4, **SE_T2)
    write_mr(root / "e", "T2 later", number=5, slices=8, ImageType=["DERIVED", "PRIMARY", "M"], **SE_T2)
    write_mr(root / "f", "ep2d_diff", number=6, **SE_T2)
    write_mr(root / "g", "FLAIR", patient="P2", study="2", **FLAIR)
    write_mr(root / "h", "DWI", patient="P3", study="3")
    return root


def test_series_of_studies_with_reasons(folder: Path) -> None:
    first, second, third = find_studies(folder, wanted)
    assert (first.patient, first.site, second.patient, second.site) == ("P1", "North", "P2", None)
    assert {n: Path(f).name for n, f in first.files.items()} == {"t1": "a", "t1ce": "b", "t2": "d"}
    said = dict(zip("abcdef", first.said))
    assert said["a"].endswith("counts as native (a wrong guess where the tag was blanked).")
    assert said["b"].startswith("'T1 SE' (MR, 6 slices of 16 x 16): taken as t1ce because")
    assert "left out: t1ce is taken from 'T1 SE'" in said["c"] and "(6 slices against 4)" in said["c"]
    assert "TR 4000, TE 100 ms are those of a T2" in said["d"]
    assert "(original, the other derived)" in said["e"], "a derived series with more slices does not win"
    assert "'diff': dwi is not among the sequences" in said["f"]
    assert second.files.keys() == {"flair"} and third.files == {}
    for address in first.files.values():
        assert read_volume(address).x.shape == (16, 16, 6)


def test_a_series_that_cannot_be_read_gives_way(tmp_path: Path) -> None:
    bad = write_mr(tmp_path / "bad", "T2 TSE", number=1, slices=9, **SE_T2)
    (bad / "IM0004.dcm").unlink()
    only = find_studies(tmp_path, wanted)[0]
    assert only.files == {} and "left out: it is t2, but its slices are not evenly spaced" in only.said[0]
    write_mr(tmp_path / "good", "T2 TSE", number=2, slices=5, **SE_T2)
    both = find_studies(tmp_path, wanted)[0]
    assert Path(both.files["t2"]).name == "good" and "(the other cannot be read as it is)" in both.said[0]
