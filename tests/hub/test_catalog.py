from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from tiny_bundle import card, save

from medfm import paths
from medfm.hub import seal
from medfm.hub.catalog import list_models
from medfm.hub.folder import FolderStore, local_hub
from medfm.hub.resolve import bundle_in, resolve
from medfm.types import MedfmError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return save(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture
def shipped(tmp_path, monkeypatch, bundle):
    """A catalogue of one starter, in place of the one that ships."""
    root = tmp_path / "model_cards"
    shutil.copytree(bundle.path, root / "tiny-sim")
    monkeypatch.setattr(paths, "model_cards", lambda: root)
    return root


def test_shipped_models_and_the_local_hub_are_listed_with_what_their_cards_say(shipped, bundle):
    revision = local_hub().publish(save_as(shipped, "other-sim", seed=1), "other-sim")
    first, second = list_models()
    size = (bundle.path / "model.safetensors").stat().st_size
    assert (first.id, first.where, first.size, first.revision) == ("tiny-sim", "shipped", size, "")
    assert (first.modality, first.method, first.parameters, first.simulated_only) == (
        "ecg",
        "ecg_jepa",
        11_000,
        True,
    )
    assert (
        first.result == "AUROC 0.800 (0.700 to 0.900), random initialisation 0.600, on held out, 20 patients"
    )
    assert (second.id, second.where, second.revision) == ("other-sim", "local hub", str(revision))
    assert list_models("ecg") == [first, second] and list_models("ct") == []


def save_as(root, identifier, **options):
    return save(root.parent / f"{identifier}-bundle", identifier, **options).path


def test_a_damaged_entry_is_named_and_hides_no_other(shipped):
    shutil.copytree(shipped / "tiny-sim", shipped / "broken-sim")
    (shipped / "broken-sim" / "config.json").write_text("{")
    hub = local_hub()
    hub.publish(shipped / "tiny-sim", "mine")
    (record,) = (hub.root / "models" / "mine").iterdir()
    record.chmod(0o644)
    record.write_text("{}")
    rows = {row.id: row for row in list_models()}
    assert rows["broken-sim"].problem and "damaged" in rows["mine"].problem and not rows["tiny-sim"].problem


def test_a_card_without_weights_is_listed_and_says_how_to_get_them(shipped):
    folder = shipped / "official"
    shutil.copytree(shipped / "tiny-sim", folder)
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    official = card("official", simulated_only=False, datasets=[], summary="Official.", obtain="Run this.")
    config["card"] = official.model_dump(mode="json")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text(official.readme())
    seal.write_manifest(folder)
    (row,) = [row for row in list_models() if row.id == "official"]
    assert (row.where, row.size) == ("card only", 0)
    from medfm.hub.bundle import load_bundle

    with pytest.raises(MedfmError, match=r"only the card is here.*Run this\."):
        load_bundle(resolve("official")).build()
    # Weights that the user made under that name are found under it.
    local_hub().publish(save_as(shipped, "official-sim"), "official")
    assert load_bundle(resolve("official")).has_weights


def test_listing_imports_no_torch(bundle):
    local_hub().publish(bundle.path, "tiny-sim")
    code = (
        "import sys, medfm; assert medfm.list_models(); sys.exit(any(m in sys.modules for m in ('torch', "
        "'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_form_of_reference_leads_to_a_bundle(shipped, bundle, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(bundle.path, run / "bundle")
    hub = local_hub()
    mine = [hub.publish(save_as(shipped, f"mine{seed}-sim", seed=seed), "mine") for seed in range(2)]
    shared = FolderStore(tmp_path / "shared")
    shared.publish(bundle.path, "tiny")
    assert resolve("tiny-sim") == shipped / "tiny-sim"
    assert resolve("mine") == hub.fetch("mine", "2") != hub.fetch("mine", "1") == resolve("mine@1")
    assert resolve(f"mine@{mine[0]}") == hub.fetch("mine", "1")
    assert resolve(run) == resolve(run / "bundle") == run / "bundle"
    for ref in ("tiny", "tiny@1", "tiny@latest"):
        assert resolve(f"folder:{tmp_path}/shared/{ref}") == shared.fetch("tiny")
    monkeypatch.chdir(tmp_path)
    assert resolve("run").resolve() == (run / "bundle").resolve()


def test_a_shipped_id_always_means_the_shipped_weights(shipped):
    hub = local_hub()
    hub.publish(save_as(shipped, "tiny2-sim", seed=1), "tiny-sim")
    assert resolve("tiny-sim") == shipped / "tiny-sim"
    assert resolve("tiny-sim@1") == hub.fetch("tiny-sim", "1")
    assert [row.where for row in list_models() if row.id == "tiny-sim"] == ["shipped", "local hub"]


def test_an_unknown_reference_names_the_nearest_ids_and_the_list(shipped, tmp_path):
    with pytest.raises(MedfmError, match=r"no model 'tiny-sin'.*nearest are tiny-sim.*medfm hub list"):
        resolve("tiny-sin")
    with pytest.raises(MedfmError, match=r"'zzz'.*no id is near.*medfm hub list"):
        resolve("zzz")
    with pytest.raises(MedfmError, match="the folder does not exist"):
        resolve(tmp_path / "nowhere")


def test_what_is_no_model_is_said_to_be_what_it_is(tmp_path):
    (tmp_path / "plain").mkdir()
    with pytest.raises(MedfmError, match="neither a bundle nor a run folder"):
        bundle_in(tmp_path / "plain")
    (tmp_path / "plain" / "config.yaml").touch()
    with pytest.raises(MedfmError, match=r"not finished.*--resume"):
        bundle_in(tmp_path / "plain")
    for name, said in (("model.tar", "medfm hub import"), ("model.pt", "medfm hub convert")):
        (tmp_path / name).touch()
        with pytest.raises(MedfmError, match=said):
            resolve(tmp_path / name)


@pytest.mark.parametrize("ref", ["folder:name", "folder:", "folder:/x/", "folder:/x/@3"])
def test_a_malformed_folder_reference_is_a_sentence(ref):
    with pytest.raises(MedfmError, match="folder:PATH/name"):
        resolve(ref)
