from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_bundle import FS, card, ecg, save, vit, waves

import medfm
from medfm.finetuning.heads import LinearHead
from medfm.finetuning.task import Task
from medfm.formats import wfdb
from medfm.hub.bundle import save_bundle
from medfm.hub.folder import local_hub
from medfm.types import MedfmError

LEADS = ecg().channels


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return save(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture(scope="module")
def model(bundle):
    return medfm.load(bundle.path, device="cpu")


@pytest.fixture
def records(tmp_path):
    """Three WFDB records and the arrays that they hold."""
    x = waves(3)
    for i, record in enumerate(x):
        wfdb.write(tmp_path / f"r{i}", record, FS, LEADS)
    return tmp_path, x


def by_hand(x: np.ndarray) -> torch.Tensor:
    """``[n, 12, 200]`` mV -> tokens ``[n, 8, 16]``, without the code under test."""
    mean = np.array([0.01 * i for i in range(12)], np.float32)[:, None]
    with torch.inference_mode():
        return vit(0)(torch.from_numpy(np.clip((x - mean) / np.float32(0.2), -5, 5))).maps[-1].transpose(1, 2)


def test_an_embedding_is_the_mean_of_the_networks_tokens_on_the_normalised_record(model):
    x, tokens = waves(3), by_hand(waves(3))
    assert np.allclose(model.embed(x, fs=FS), tokens.mean(1), atol=1e-5)
    both = torch.cat([tokens.mean(1), tokens.std(1, unbiased=False)], 1)
    assert np.allclose(model.embed(x, fs=FS, pool="mean-std"), both, atol=1e-3)
    assert np.allclose(model.embed(x, fs=FS, pool="tokens"), tokens, atol=1e-5)
    assert model.embed(x[0], fs=FS).shape == (1, 16)
    with pytest.raises(MedfmError, match="pool 'max' is unknown"):
        model.embed(x, fs=FS, pool="max")


def test_the_batch_size_changes_nothing(model):
    x = waves(5, seconds=5)
    assert np.allclose(model.embed(x, fs=FS, batch_size=1), model.embed(x, fs=FS, batch_size=7), atol=1e-6)


def test_a_long_record_is_the_mean_over_windows_that_cover_it(model):
    x = waves(1, seconds=4)
    halves = by_hand(np.concatenate([x[..., :200], x[..., 200:]])).mean(1)
    assert np.allclose(model.embed(x, fs=FS)[0], halves.mean(0), atol=1e-5)
    x = waves(1, seconds=3)  # the second window starts at the first second and ends with the record
    parts = by_hand(np.concatenate([x[..., :200], x[..., 100:]])).mean(1)
    assert np.allclose(model.embed(x, fs=FS)[0], parts.mean(0), atol=1e-5)
    with pytest.raises(MedfmError, match=r"longer than 2 s.*tokens"):
        model.embed(x, fs=FS, pool="tokens")


def test_an_array_must_say_its_rate_and_name_channels_that_are_not_the_models(model):
    x = waves(2)
    with pytest.raises(MedfmError, match=r"sampling rate.*fs=500"):
        model.embed(x)
    with pytest.raises(MedfmError, match="positive number of Hz"):
        model.embed(x, fs=0)
    with pytest.raises(MedfmError, match=r"8 channels.*Name the array's own"):
        model.embed(x[:, :8], fs=FS)
    with pytest.raises(MedfmError, match="records, channels, samples"):
        model.embed(x[0, 0], fs=FS)
    order = list(reversed(range(12)))
    swapped = model.embed(x[:, order], fs=FS, channels=[LEADS[i] for i in order])
    assert np.allclose(swapped, model.embed(x, fs=FS), atol=1e-6)
    assert not np.allclose(model.embed(x[:, order], fs=FS), model.embed(x, fs=FS), atol=1e-2)


def test_the_rate_is_used(model):
    slow, fast = waves(1, seconds=2, fs=100, seed=3), waves(1, seconds=2, fs=400, seed=3)
    t = np.arange(800) / 400
    for x, time in ((slow, t[::4]), (fast, t)):
        x[:] = np.sin(2 * np.pi * 3 * time) * np.linspace(0.5, 1.5, 12)[:, None]
    same = model.embed(slow, fs=100) - model.embed(fast, fs=400)
    other = model.embed(slow, fs=100) - model.embed(fast, fs=200)
    assert np.abs(same).mean() < 0.1 * np.abs(other).mean()


def test_tensors_are_arrays(model):
    x = waves(2)
    assert np.array_equal(model.embed(torch.from_numpy(x), fs=FS), model.embed(x, fs=FS))


def test_a_file_a_folder_a_list_a_table_and_a_frame_give_the_same_rows(model, records):
    folder, x = records
    want = model.embed(x, fs=FS)
    paths = [folder / f"r{i}.hea" for i in range(3)]
    pd.DataFrame({"path": [f"r{i}" for i in range(3)], "afib": [0, 1, 0]}).to_csv(
        folder / "table.csv", index=False
    )
    frame = pd.DataFrame({"path": list(map(str, paths))})
    for given in (folder, paths, folder / "table.csv", frame, frame["path"], np.array(list(map(str, paths)))):
        assert np.allclose(model.embed(given), want, atol=2e-2), given
    assert np.allclose(model.embed(str(paths[1])), want[1:2], atol=2e-2)
    assert np.abs(want[0] - want[1]).max() > 0.1


def test_a_csv_of_samples_is_a_recording_and_takes_the_rate_it_does_not_state(model, tmp_path):
    x = waves(1)
    pd.DataFrame(x[0].T, columns=LEADS).to_csv(tmp_path / "one.csv", index=False)
    assert np.allclose(model.embed(tmp_path / "one.csv", fs=FS), model.embed(x, fs=FS), atol=1e-3)


def test_bad_files_are_set_aside_with_their_reasons_and_keep_their_place(model, records, caplog):
    folder, _ = records
    (folder / "r1.dat").write_bytes(b"")
    paths = [str(folder / n) for n in ("r0.hea", "r1.hea", "gone.hea", "r2.hea")]
    found = model.embed_records(paths)
    assert found.kept == [0, 3] and found.records == ["r0", "r2"] and len(found.z) == 2
    assert [name for name, _ in found.failed] == paths[1:3] and all(reason for _, reason in found.failed)
    with caplog.at_level("WARNING", "medfm"):
        z = model.embed(paths)
    assert np.isnan(z[1:3]).all() and np.allclose(z[[0, 3]], found.z)
    assert paths[1] in caplog.text and paths[2] in caplog.text
    assert list(found.frame()["record"]) == ["r0", "r2"] and found.frame().shape == (2, 18)
    with pytest.raises(MedfmError, match=r"none of the 1 record\(s\).*gone"):
        model.embed(folder / "gone.hea")
    (folder / "empty").mkdir()
    with pytest.raises(MedfmError, match="no record below this folder"):
        model.embed(folder / "empty")


def test_a_window_without_any_sample_is_left_out_and_an_absent_lead_is_absent(model):
    x = waves(1, seconds=4)
    x[..., 200:] = np.nan
    assert np.allclose(model.embed(x, fs=FS), model.embed(x[..., :200], fs=FS), atol=1e-4)
    x = waves(1)
    x[0, 7] = np.nan
    z = model.embed(x, fs=FS)
    assert np.isfinite(z).all() and not np.allclose(z, model.embed(waves(1), fs=FS), atol=1e-3)


def test_what_load_returns(model, bundle):
    local_hub().publish(bundle.path, "tiny-sim")
    again = medfm.load("tiny-sim")
    assert isinstance(again.backbone, torch.nn.Module) and not again.backbone.training
    assert again.card == card() and again.modality.settings() == ecg().settings()
    assert again.bundle.config["backbone"]["name"] == "vit"
    assert "not a medical device" in repr(again) and "tiny-sim" in repr(again)
    with pytest.raises(MedfmError, match="without a head"):
        again.predict(waves(1), fs=FS)


def finetuned(folder, kind, columns, classes):
    head = LinearHead(16, len(classes), "mean-std")
    torch.manual_seed(5)
    torch.nn.init.normal_(head.linear.weight)
    torch.nn.init.normal_(head.center)
    task = Task(kind, columns, classes)
    described = {
        "task": task.to_dict(),
        "targets": columns,
        "classes": classes,
        "linear": head.config(),
        "window": 200,
    }
    plain = card(
        "tuned", simulated_only=False, datasets=[], summary="Tuned.", task=kind, targets=list(classes)
    )
    save_bundle(folder, vit(0), ecg().settings(), plain, head=described, head_state=head.state_dict())
    return head.eval()


def test_a_fine_tuned_model_predicts_what_its_head_says(tmp_path, records):
    folder, x = records
    head = finetuned(tmp_path / "b", "multiclass", ("rhythm",), ("af", "sr", "other"))
    model = medfm.load(tmp_path / "b", device="cpu")
    z = torch.from_numpy(model.embed(x, fs=FS, pool="mean-std"))
    wanted = head(z).softmax(1).detach().numpy()
    frame = model.predict(x, fs=FS)
    p = frame[["p_af", "p_sr", "p_other"]].to_numpy()
    assert np.allclose(p, wanted, atol=1e-3) and np.allclose(p.sum(1), 1)
    assert list(frame["predicted"]) == [("af", "sr", "other")[k] for k in wanted.argmax(1)]
    (folder / "r0.dat").unlink()
    frame = model.predict([folder / "r0.hea", folder / "r1.hea"])
    assert frame["error"][0] and np.isnan(frame["p_af"][0]) and frame["error"][1] == ""
    assert "multiclass" in repr(model)


def test_logits_of_a_long_records_windows_are_averaged(tmp_path):
    finetuned(tmp_path / "b", "binary", ("af",), ("af",))
    model = medfm.load(tmp_path / "b", device="cpu")
    x = waves(1, seconds=4)
    halves = model.predict(np.concatenate([x[..., :200], x[..., 200:]]), fs=FS)["p_af"].to_numpy()
    logit = np.log(halves / (1 - halves)).mean()
    assert np.allclose(model.predict(x, fs=FS)["p_af"], 1 / (1 + np.exp(-logit)), atol=1e-5)


def test_a_bundle_whose_network_and_preprocessing_disagree_is_refused(tmp_path):
    settings = {**ecg().settings(), "leads": ["I", "II"], "mean": [0, 0], "std": [1, 1]}
    save_bundle(tmp_path / "b", vit(0), settings, card())
    with pytest.raises(MedfmError, match="takes 12 channels, its preprocessing gives 2"):
        medfm.load(tmp_path / "b")
