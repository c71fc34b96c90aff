"""What the workflows know of each modality: the table is complete, and its entries do what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medfm.config.methods import METHODS
from medfm.config.modalities import MODALITIES
from medfm.config.run import SyntheticSettings
from medfm.modalities.xray import Xray
from medfm.synthetic.corpus import KINDS as CORPORA
from medfm.synthetic.corpus import radiograph_arrays
from medfm.types import MedfmError
from medfm.workflows import callbacks, floors
from medfm.workflows.kinds import KINDS, PICTURES, kind_of
from medfm.workflows.run_folder import CITATIONS
from medfm.workflows.windows import PictureRecords


def test_every_modality_has_its_line_and_every_line_its_corpus_and_words():
    # Slices are cut from the CT corpus.
    assert set(KINDS) == set(MODALITIES) == set(CORPORA) | {"ct_slice"}
    for name, entry in MODALITIES.items():
        by_record = {"normalise": "record"} if "normalise" in entry.settings.model_fields else {}
        modality = entry.load()(**entry.settings(**by_record).model_dump(exclude={"name"}))
        assert kind_of(modality) is KINDS[name]
        assert ("deviation of" if by_record else "z-score over") in KINDS[name].preprocessing(modality)
        assert set(KINDS[name].citations) <= set(CITATIONS)


def test_every_method_is_cited():
    assert set(METHODS) <= set(CITATIONS)


@pytest.mark.parametrize(
    "settings",
    [{"voi": -1, "fit": "crop", "invert": "never"}, {"colour": "rgb", "fit": "stretch", "normalise": "none"}],
)
def test_every_setting_of_a_radiograph_has_its_words(settings):
    words = KINDS["xray"].preprocessing(Xray(**settings))
    assert words.endswith(".") and "224 x 224" in words


def test_columns_are_the_methods_own(tmp_path):
    columns = {}
    for name in ("ecg_jepa", "mae"):
        method = METHODS[name].load()
        columns[name] = callbacks.Metrics(tmp_path / "m.csv", 1, 0, method.losses, method.rates).fields
    measures = ("target_std", "context_std", "effective_rank", "probe_auroc", "samples_per_s")
    own = ("jepa_loss", "truth_loss", "lr", "weight_decay", "momentum")
    assert columns["ecg_jepa"] == ("step", "loss", *own, *measures)
    assert columns["mae"] == ("step", "loss", "mae_loss", "truth_loss", "lr", "weight_decay", *measures)


def test_the_simulated_corpus_is_the_generators_chunk_by_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("medfm.workflows.corpora.CHUNK", 4)
    settings = SyntheticSettings(patients=3, records_per_patient=2, seed=4)  # two patients a chunk
    modality = Xray(size=(32, 40), colour="rgb", normalise="none")
    store = KINDS["xray"].corpus(settings, modality, tmp_path, 1, lambda done, total: None)
    x, labels = radiograph_arrays(3, seed=4, size=(32, 40), records_per_patient=2)
    found, present = store.read(np.arange(6))
    assert found.shape == (6, 3, 32, 40) and present.all()
    np.testing.assert_allclose(found, np.repeat(x, 3, axis=1), atol=1e-4)  # int16 steps
    assert store.labels["record"].tolist() == labels["record"].tolist()
    again = KINDS["xray"].corpus(
        settings, modality, tmp_path, 1, lambda done, total: pytest.fail("made anew")
    )
    assert again.path == store.path
    records = PICTURES.records(store, modality)
    np.testing.assert_array_equal(records.physical(np.arange(2))[0], found[:2])
    owner, starts = records.plan(np.array([4, 5]))
    assert owner.tolist() == [0, 1] and not starts.any()
    with pytest.raises(MedfmError, match="taken whole"):
        PictureRecords(store, modality, window=100)


def test_the_floor_of_pictures_is_block_means():
    x = np.arange(2 * 33 * 48, dtype=np.float32).reshape(2, 1, 33, 48)
    x[0, 0, 0, 0] = np.nan  # no picture: black
    modality = Xray(size=(33, 48))
    reduced = floors.PICTURE["the picture at 16 x 16 pixels"](x, modality)
    assert reduced.shape == (2, 256)
    assert reduced[1, 17] == x[1, 0, 2:4, 3:6].mean()
    assert reduced[1, 255] == x[1, 0, 30:33, 45:48].mean()  # the last block has a row more
    assert reduced[0, 0] == pytest.approx((1 + 2 + 48 + 49 + 50) / 6)
    grey = floors.PICTURE["mean and deviation of the grey"](x, modality)
    np.testing.assert_allclose(grey[1], [x[1].mean(), x[1].std()], rtol=1e-6)
