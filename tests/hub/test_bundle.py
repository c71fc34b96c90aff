from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_bundle import card, ecg, save, vit, waves

from medfm.hub import seal
from medfm.hub.bundle import load_bundle, save_bundle, verify_bundle, weights_hash
from medfm.types import MedfmError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return save(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture
def bundle(made, tmp_path):
    """A copy that a test may damage."""
    import shutil

    return shutil.copytree(made.path, tmp_path / "bundle")


def reseal(folder, **changes):
    """What an old or a newer medfm could have written: config changed, hashes right."""
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    seal.write_manifest(folder)


def test_a_bundle_gives_back_network_preprocessing_and_card(made):
    network, back = vit(0), load_bundle(made.path)
    for (name, a), (other, b) in zip(network.state_dict().items(), back.build().state_dict().items()):
        assert name == other and torch.equal(a, b)
    assert not back.build().training
    assert back.modality().settings() == ecg().settings()
    assert back.card == card()
    x = torch.from_numpy(waves(2))
    assert torch.equal(network(x).pooled, back.build()(x).pooled)
    assert sorted(p.name for p in made.path.iterdir()) == [
        "README.md",
        "config.json",
        "manifest.json",
        "model.safetensors",
    ]


def test_half_precision_halves_the_file_and_loads_as_float32(made, tmp_path):
    half = save(tmp_path / "half", dtype="float16")
    size = [sum(t.nbytes for t in load_file(b.path / "model.safetensors").values()) for b in (made, half)]
    assert size[0] == 2 * size[1]
    state = half.build().state_dict()
    assert all(t.dtype == torch.float32 for t in (*state.values(), *half.state.values()))
    for name, value in vit(0).state_dict().items():
        assert torch.equal(state[name], value.half().float())


@pytest.mark.parametrize(
    "value, dtype, said", [(1e6, "float16", "too large for float16"), (np.nan, "float32", "diverged")]
)
def test_weights_that_the_file_would_ruin_are_refused_and_nothing_is_left(tmp_path, value, dtype, said):
    network = vit()
    with torch.no_grad():
        next(network.parameters())[0] = value
    with pytest.raises(MedfmError, match=said):
        save_bundle(tmp_path / "b", network, ecg().settings(), card(), dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_every_altered_byte_is_found_in_every_file(bundle):
    for file in sorted(bundle.iterdir()):
        content = file.read_bytes()
        for at in (0, len(content) // 2, len(content) - 2):
            changed = bytearray(content)
            changed[at] ^= 1
            file.write_bytes(changed)
            with pytest.raises(MedfmError, match=r"altered|damaged|missing|newer|leaves|refused"):
                load_bundle(bundle)
        file.write_bytes(content)
    load_bundle(bundle)


def test_missing_added_cut_and_linked_files_are_refused(bundle):
    (bundle / "extra.txt").write_text("x")
    with pytest.raises(MedfmError, match=r"extra\.txt was added"):
        load_bundle(bundle)
    (bundle / "extra.txt").unlink()
    weights = (bundle / "model.safetensors").read_bytes()
    (bundle / "model.safetensors").write_bytes(weights[:-1])
    with pytest.raises(MedfmError, match=f"{len(weights) - 1} bytes instead of {len(weights)}"):
        load_bundle(bundle)
    (bundle / "model.safetensors").unlink()
    with pytest.raises(MedfmError, match=r"model\.safetensors is missing"):
        load_bundle(bundle)
    elsewhere = bundle.parent / "elsewhere"
    elsewhere.write_bytes(weights)
    (bundle / "model.safetensors").symlink_to(elsewhere)
    with pytest.raises(MedfmError, match="is a link"):
        load_bundle(bundle)


def test_a_linked_folder_inside_a_bundle_is_refused(bundle, tmp_path):
    (tmp_path / "outside").mkdir()
    (bundle / "adapter").symlink_to(tmp_path / "outside")
    with pytest.raises(MedfmError, match="is a link"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../b", "a\\b", "C:x", "", "a//b", "./a", "a\0b"]
)
def test_a_manifest_that_names_a_file_outside_is_refused(bundle, name):
    plain = json.loads((bundle / "manifest.json").read_text())
    plain["files"][name] = {"sha256": "0" * 64, "size": 0}
    (bundle / "manifest.json").write_text(json.dumps(plain))
    with pytest.raises(MedfmError, match="leaves the folder"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    "plain", ["[]", "{}", '{"format": 1, "files": {"a": {"sha256": "x", "size": 1}}}', '{"files": []}', "{"]
)
def test_a_damaged_manifest_is_a_sentence(bundle, plain):
    (bundle / "manifest.json").write_text(plain)
    with pytest.raises(MedfmError, match="damaged"):
        load_bundle(bundle)


def test_a_pickle_in_a_bundle_is_refused_by_name_and_never_opened(bundle):
    marker = bundle.parent / "executed"

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    for name in ("pytorch_model.bin", "weights.PT", "x.pkl"):
        (bundle / name).write_bytes(pickle.dumps(Evil()))
        plain = seal.FileEntry(*seal.sha256_file(bundle / name))._asdict()
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["files"][name] = plain
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(MedfmError, match="may hold pickled code"):
            load_bundle(bundle)
        (bundle / name).unlink()
        del manifest["files"][name]
        (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert not marker.exists()


def test_keys_and_shapes_that_do_not_fit_are_named(bundle):
    state = load_file(bundle / "model.safetensors")
    norm = state.pop("norm.weight")
    save_file({**state, "blocks.9.extra": norm.clone()}, bundle / "model.safetensors")
    seal.write_manifest(bundle)
    with pytest.raises(MedfmError, match=r"missing norm\.weight; unexpected blocks\.9\.extra"):
        load_bundle(bundle).build()
    save_file({**state, "norm.weight": torch.ones(7)}, bundle / "model.safetensors")
    seal.write_manifest(bundle)
    with pytest.raises(MedfmError, match=r"norm\.weight is \[7\] where the network has \[16\]"):
        load_bundle(bundle).build()


def test_what_a_newer_medfm_wrote_says_to_update(bundle):
    reseal(bundle, format=2)
    with pytest.raises(MedfmError, match=r"format 2 is newer.*pip install -U medfm"):
        load_bundle(bundle)
    reseal(bundle, format=1, backbone={"name": "mamba9"}, versions={"medfm": "7.0"})
    with pytest.raises(
        MedfmError, match=r"needs the backbone 'mamba9'.*written by medfm 7\.0.*pip install -U"
    ):
        load_bundle(bundle).build()
    reseal(bundle, backbone={"name": "vit", "flux": 1})
    with pytest.raises(MedfmError, match=r"cannot build the backbone 'vit'.*flux"):
        load_bundle(bundle).build()
    reseal(bundle, modality={"name": "eeg"})
    with pytest.raises(MedfmError, match="needs the modality 'eeg'"):
        load_bundle(bundle).modality()
    reseal(bundle, modality={"name": "ecg", "warp": 3})
    with pytest.raises(MedfmError, match=r"does not understand the preprocessing.*warp"):
        load_bundle(bundle).modality()


def test_verify_also_compares_the_readme_with_the_card(bundle):
    assert verify_bundle(bundle).card.id == "tiny-sim"
    text = (bundle / "README.md").read_text().replace("license: apache-2.0", "license: mit")
    (bundle / "README.md").write_text(text)
    seal.write_manifest(bundle)
    with pytest.raises(MedfmError, match="differs from the card"):
        verify_bundle(bundle)


def test_a_head_travels_with_its_backbone_and_can_be_dropped(tmp_path):
    head = {"weight": torch.arange(32.0).reshape(2, 16), "bias": torch.tensor([1.0, 2.0])}
    saved = save(tmp_path / "b", head={"task": "multilabel"}, head_state=head)
    back = load_bundle(saved.path)
    assert back.head == {"task": "multilabel"}
    assert all(torch.equal(back.head_state[k], v) for k, v in head.items())
    assert torch.equal(back.build().state_dict()["norm.weight"], vit().state_dict()["norm.weight"])
    with pytest.raises(MedfmError, match="both its description and its tensors"):
        save(tmp_path / "c", head={"task": "binary"})


def test_an_existing_folder_is_kept_unless_overwritten(bundle):
    before = weights_hash(load_bundle(bundle).state)
    with pytest.raises(MedfmError, match="exists already"):
        save(bundle, seed=1)
    assert weights_hash(load_bundle(bundle).state) == before
    save(bundle, seed=1, overwrite=True)
    assert weights_hash(load_bundle(bundle).state) == weights_hash(vit(1).state_dict()) != before
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_a_save_that_fails_leaves_the_old_bundle_whole(bundle, monkeypatch):
    import medfm.hub.bundle as module

    def full(folder):
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(module, "write_manifest", full)
    with pytest.raises(MedfmError, match="no space left on the disk"):
        save(bundle, seed=1, overwrite=True)
    monkeypatch.undo()
    assert load_bundle(bundle).weights_sha256 == weights_hash(vit(0).state_dict())
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_a_rename_that_fails_puts_the_old_bundle_back(bundle, monkeypatch):
    rename = Path.rename

    def refuse(self, target):
        if self.name.startswith(".bundle.") and not self.name.endswith(".old"):
            raise OSError(errno.EIO, "Input/output error", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(MedfmError, match="Input/output error"):
        save(bundle, seed=1, overwrite=True)
    monkeypatch.undo()
    assert load_bundle(bundle).weights_sha256 == weights_hash(vit(0).state_dict())
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_the_same_model_always_gives_the_same_bytes(made, tmp_path):
    assert (
        save(tmp_path / "again").path.joinpath("manifest.json").read_bytes()
        == (made.path / "manifest.json").read_bytes()
    )


def test_the_weights_hash_is_of_values_and_not_of_the_file(made, tmp_path):
    assert load_bundle(made.path).weights_sha256 == weights_hash(vit(0).state_dict())
    state = vit(0).state_dict()
    state["norm.weight"] = state["norm.weight"] + 1e-6
    assert weights_hash(state) != made.weights_sha256


def test_peft_alone_loads_an_adapter_and_only_onto_its_backbone(tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    base = save(tmp_path / "base")
    wrapped = get_peft_model(
        base.build(), LoraConfig(r=2, target_modules=vit().adapter_targets, init_lora_weights=False)
    )
    x = torch.from_numpy(waves(2))
    wanted = wrapped.eval().get_base_model()(x).pooled.detach()
    merged = base.build()
    for name in merged.adapter_targets:
        layer = wrapped.get_base_model().get_submodule(name)
        merged.get_submodule(name).weight.data += layer.get_delta_weight("default")
    child = save_bundle(
        tmp_path / "child",
        merged,
        ecg().settings(),
        card("child-sim"),
        adapter=wrapped,
        adapter_backbone=("tiny-sim", base.weights_sha256),
    )
    back = load_bundle(child.path)
    assert torch.allclose(back.build()(x).pooled, wanted, atol=1e-5)
    assert torch.equal(back.with_adapter(base.build()).get_base_model()(x).pooled, wanted)
    assert torch.equal(
        PeftModel.from_pretrained(vit(0), str(child.path / "adapter")).get_base_model()(x).pooled, wanted
    )
    with pytest.raises(MedfmError, match=r"needs the backbone with weights .*load tiny-sim"):
        back.with_adapter(vit(1))


def test_reading_a_card_loads_no_torch(made):
    code = (
        "import sys; from medfm.hub.bundle import verify_bundle; from medfm.hub.catalog import list_models;"
        f"assert verify_bundle({str(made.path)!r}).card.id == 'tiny-sim'; list_models();"
        "sys.exit('torch' in sys.modules or 'huggingface_hub' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
