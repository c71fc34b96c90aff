from __future__ import annotations

import json

import numpy as np
import pytest
from ecg_records import LEADS, codes, signal, twelve

from medfm.config.modalities import ECGSettings
from medfm.modalities.ecg import ECG
from medfm.types import MedfmError, ReadError

EIGHT = [0, 1, 6, 7, 8, 9, 10, 11]


def test_settings_are_the_configurations():
    assert ECG().settings() == json.loads(ECGSettings().model_dump_json())
    changed = ECG(
        fs=250, seconds=5, leads=("II", "V5"), mean=(0, 0), std=(1, 2), highpass=0.5, alias={"ECG": "II"}
    )
    settings = json.loads(json.dumps(changed.settings()))
    again = ECG(**{k: v for k, v in ECGSettings(**settings).model_dump().items() if k != "name"})
    assert again.settings() == changed.settings() and again.size == (1250,) and again.spacing == (0.004,)


@pytest.mark.parametrize(
    ("bad", "words"),
    [({"leads": ("I", "X")}, "X"), ({"mean": (0.0,)}, "1 values"), ({"std": (0.0,) * 12}, "positive"),
     ({"highpass": 300.0}, "half"), ({"alias": {"a": "b"}}, "alias"), ({"leads": ()}, "at least one")],
)  # fmt: skip
def test_contradicting_settings(bad, words):
    with pytest.raises(MedfmError, match=words):
        ECG(**bad)


def test_order_unit_and_sign_of_a_file_are_undone():
    x = twelve()
    order = [5, 4, 3, 0, 1, 2, 11, 10, 9, 8, 7, 6]
    names = [f"MDC_ECG_LEAD_{LEADS[i].upper()}" for i in order]
    data = x[order] * 1000
    names[2], data[2] = "-aVR", -data[2]
    sample = ECG().from_signal(signal(data, channels=names, units="uV", record="r1", patient="p1"))
    assert np.abs(sample.x - x).max() < 1e-4
    assert sample.present.all() and sample.x.dtype == np.float32 and sample.channels == LEADS
    assert (sample.record, sample.patient, sample.modality) == ("r1", "p1", "ecg")


@pytest.mark.parametrize("fs", [500.0, 360.0])
def test_derived_leads_obey_einthoven_to_float_precision(fs):
    x = twelve(fs, noise=0.02)
    sample = ECG(fs=250).from_signal(signal(x[EIGHT], fs, channels=[LEADS[i] for i in EIGHT]))
    i, ii, iii, avr, avl, avf = sample.x[:6]
    for residual in (ii - i - iii, avr + (i + ii) / 2, avl - i + ii / 2, avf - ii + i / 2):
        assert np.abs(residual).max() < 5e-7
    assert sample.present.all()
    assert {"derived", "einthoven-not-assessable"} <= codes(sample.findings)


def test_absent_leads_are_nan_and_said():
    x = twelve()
    sample = ECG().from_signal(signal(x[[1, 10]], channels=("MLII", "V5")))
    assert sample.present.nonzero()[0].tolist() == [1, 10]
    assert np.isnan(sample.x[~sample.present]).all() and np.isfinite(sample.x[sample.present]).all()
    assert {"absent", "modified-lead"} <= codes(sample.findings)


def test_thirteen_and_more_channels():
    x = np.vstack([twelve(), twelve()[:3]])
    sample = ECG().from_signal(signal(x, channels=[*(n.lower() for n in LEADS), "vx", "vy", "PLETH"]))
    assert sample.present.all() and codes(sample.findings) == {"extra-lead", "non-ecg-channel"}


def test_dead_leads_are_absent_and_derived_again():
    x = twelve()
    x[2], x[7], x[8] = np.nan, 0.0, 1.5
    sample = ECG().from_signal(signal(x))
    assert np.abs(sample.x[2] - (sample.x[1] - sample.x[0])).max() < 1e-6
    assert sample.present.tolist() == [True] * 7 + [False, False] + [True] * 3
    assert [f.channel for f in sample.findings if f.code == "dead-lead"] == ["III", "V2", "V3"]


def test_gaps():
    x = twelve()
    x[1, 1000:1050] = np.nan  # 0.1 s
    x[8, 2000:3000] = np.nan  # 2 s
    sample = ECG(fs=250).from_signal(signal(x))
    assert np.isfinite(sample.x[1]).all()
    lost = np.flatnonzero(np.isnan(sample.x[8]))
    assert lost[0] == 1000 and len(lost) == 500
    assert {"gap", "gap-bridged"} <= codes(sample.findings) and sample.present.all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: signal(twelve()[:, :1]), "1 sample"),
        (lambda: signal(np.zeros((0, 5000)), channels=(), units=()), "no channel"),
        (lambda: signal(twelve(fs=50)[:, ::5], fs=10), "10 Hz.*QRS"),
        (lambda: signal(twelve()[:, :300]), "heartbeat"),
        (lambda: signal(twelve() * np.nan), "all NaN or constant"),
        (lambda: signal(twelve()[:2], channels=("ECG 1", "ECG 2")), "alias"),
        (lambda: signal(twelve(), fs=float("nan")), "sampling rate"),
        (lambda: signal(twelve()[:2], channels=("", "")), "no channel"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ReadError, match=words):
        ECG().from_signal(make())


def test_a_model_that_lacks_every_lead_of_the_file():
    with pytest.raises(ReadError, match="V1"):
        ECG(leads=("V1", "V2")).from_signal(signal(twelve()[:2], channels=("I", "II")))


def test_alias_names_a_single_lead():
    sample = ECG(alias={"ECG": "II"}).from_signal(signal(twelve()[1:2], channels=("ECG",)))
    assert sample.present.nonzero()[0].tolist() == [1]


def test_normalise_by_data_set():
    mean, std = np.arange(12) / 10, np.arange(1, 13) / 10
    ecg = ECG(mean=mean, std=std, clip=3)
    x = np.random.default_rng(0).normal(size=(4, 12, 100)).astype(np.float32)
    present = np.ones((4, 12), bool)
    present[0, 3], x[0, 3], x[1, 2, 10:20] = False, np.nan, np.nan
    before = x.copy()
    y = ecg.normalise(x, present)
    assert np.array_equal(x, before, equal_nan=True), "the store's array must not be changed"
    truth = np.clip((x - mean[:, None]) / std[:, None], -3, 3)
    fine = np.isfinite(x)
    assert np.allclose(y[fine], truth[fine], atol=1e-5)
    assert np.isnan(y[0, 3]).all()
    assert (y[1, 2, 10:20] == 0).all(), "a gap inside a present lead is the lead's mean"


def test_normalise_in_place_gives_the_same_numbers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 12, 50)).astype(np.float32)
    x[1, 2, 7], x[0, 5] = np.nan, np.nan
    present = np.ones((3, 12), bool)
    present[0, 5] = False
    for modality in (ECG(normalise="dataset", mean=[0.1] * 12, std=[0.5] * 12), ECG(normalise="record")):
        own = x.copy()
        expected = modality.normalise(x, present)
        assert modality.normalise(own, present, copy=False) is own
        np.testing.assert_array_equal(own, expected)
        assert np.isfinite(own[present]).all() and own[1, 2, 7] == 0 and np.isnan(own[0, 5]).all()


def test_normalise_by_record_and_none():
    x = twelve()[None] * 3 + 1
    present = np.ones((1, 12), bool)
    y = ECG(normalise="record", clip=100).normalise(x, present)
    assert np.allclose(y.mean(-1), 0, atol=1e-4) and np.allclose(y.std(-1), 1, atol=1e-3)
    assert np.allclose(ECG(normalise="none", clip=100).normalise(x, present), x)
    with pytest.raises(MedfmError, match="mean and std"):
        ECG().normalise(x, present)


def test_fit_ignores_absent_leads_and_gaps():
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(20, 12, 400)) * np.arange(1, 13)[:, None] / 10 + 0.2).astype(np.float32)
    present = np.ones((20, 12), bool)
    present[:10, 0], x[5, 1, :100] = False, np.nan
    x[:10, 0] = 99.0  # never counted
    present[:, 11] = False
    fitted = ECG().fit(x, present)
    assert fitted.std[0] == pytest.approx(x[10:, 0].std(), rel=1e-4)
    assert fitted.mean[1] == pytest.approx(np.nanmean(x[:, 1]), rel=1e-3)
    assert fitted.std[11] == pytest.approx(np.median(fitted.std[:11]), rel=0.2)
    assert ECG().mean is None


def test_prepare_cuts_and_pads():
    ecg = ECG(mean=[0] * 12, std=[1] * 12)
    long = ecg.prepare(ecg.from_signal(signal(twelve(seconds=12))))
    short = ecg.prepare(ecg.from_signal(signal(twelve(seconds=4))))
    assert long.x.shape == short.x.shape == (12, 5000)
    assert (short.x[:, 2000:] == 0).all() and np.abs(short.x[:, :2000]).max() > 0.5


def test_ingest_settings_leave_out_what_acts_later():
    a, b = ECG(), ECG(seconds=5, clip=3, mean=[0] * 12, std=[1] * 12)
    assert a.ingest_settings() == b.ingest_settings()
    assert a.ingest_settings() != ECG(highpass=0.5).ingest_settings() != ECG(fs=250).ingest_settings()


def test_read_names_the_file(tmp_path):
    path = tmp_path / "short.csv"
    path.write_text("time,I,II\n0,0.1,0.2\n0.002,0.1,0.3\n")
    with pytest.raises(ReadError, match=r"short\.csv"):
        ECG().read(path)
