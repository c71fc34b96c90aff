from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from typing import ClassVar

import pytest
import torch
from tiny_bundle import save

from medfm import paths
from medfm.cli.main import main
from medfm.hub.folder import FolderStore, local_hub


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return save(tmp_path_factory.mktemp("made") / "bundle").path


@pytest.fixture
def medfm(capsys):
    """Run ``medfm hub ...``: (exit status, standard output, standard error)."""

    def run(*words):
        status = main(["hub", *map(str, words)])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_pull_list_show_verify_where(medfm, bundle):
    assert medfm("list", "--json")[0] == 0
    status, out, _ = medfm("pull", bundle)
    assert status == 0 and "tiny-sim@1-" in out
    status, out, _ = medfm("list")
    row = next(line for line in out.splitlines() if line.startswith("tiny-sim"))
    assert status == 0 and "AUROC 0.800 (0.700 to 0.900)" in row and "local hub" in row
    assert "simulated data only" in out and "not a medical device" in out
    status, out, _ = medfm("show", "tiny-sim")
    assert status == 0 and "Pretrained only on simulated ECG data" in out and "## Limitations" in out
    assert "not a medical device" in out
    status, out, _ = medfm("verify", "tiny-sim")
    assert status == 0 and "intact" in out
    assert medfm("verify", "hub")[0] == 0
    status, out, _ = medfm("where", "tiny-sim")
    assert status == 0 and out.strip() == str(local_hub().fetch("tiny-sim"))
    status, out, _ = medfm("where")
    assert status == 0 and str(local_hub().root) in out
    assert f"{paths.key_file()}  (not there yet)" in out and "Keep a copy of the key" in out


def test_what_a_script_parses_is_json_and_nothing_else(medfm, bundle):
    medfm("pull", bundle)
    (row,) = [r for r in json.loads(medfm("list", "--json")[1]) if r["where"] == "local hub"]
    assert (row["id"], row["simulated_only"], row["problem"]) == ("tiny-sim", True, "")
    shown = json.loads(medfm("show", "tiny-sim", "--json")[1])
    assert shown["card"]["id"] == "tiny-sim" and shown["config"]["modality"]["fs"] == 100.0
    assert json.loads(medfm("list", "--modality", "ecg", "--json")[1])


def test_push_to_a_shared_folder_and_pull_a_revision_back(medfm, bundle, tmp_path):
    for number in (1, 2):
        status, out, _ = medfm("push", bundle, f"folder:{tmp_path}/shared/ward")
        assert status == 0 and f"ward@{number}-" in out
    ref = out.split()[-1]
    assert FolderStore(tmp_path / "shared").find("ward").revision.number == 2
    assert medfm("verify", f"folder:{tmp_path}/shared")[0] == 0
    status, out, _ = medfm("pull", ref)
    assert status == 0 and "tiny-sim@1-" in out
    for words, said in (
        ((f"folder:{tmp_path}/shared/ward@1",), "makes its own revision"),
        (("s3://bucket",), "push to folder:PATH/name"),
        ((f"folder:{tmp_path}/s/n", "--tag", "v1"), "belong to hf://"),
    ):
        status, _, err = medfm("push", bundle, *words)
        assert status == 2 and said in err


def test_a_damaged_store_fails_with_the_file(medfm, bundle, tmp_path):
    medfm("push", bundle, f"folder:{tmp_path}/shared/ward")
    blob = max(
        (p for p in (tmp_path / "shared" / "blobs").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    blob.chmod(0o644)
    blob.write_bytes(b"x")
    status, _, err = medfm("verify", f"folder:{tmp_path}/shared")
    assert status == 1 and str(blob) in err and "altered" in err


def test_export_and_import(medfm, bundle, tmp_path):
    archive = tmp_path / "tiny.tar"
    status, out, _ = medfm("export", bundle, archive)
    assert status == 0 and "medfm hub import tiny.tar" in out and tarfile.is_tarfile(archive)
    status, _, err = medfm("export", bundle, archive)
    assert status == 1 and "exists already" in err
    assert medfm("export", bundle, archive, "--overwrite")[0] == 0
    status, out, _ = medfm("import", archive)
    assert status == 0 and "tiny-sim@1-" in out


def test_wrong_references_are_one_sentence(medfm, bundle):
    medfm("pull", bundle)
    status, out, err = medfm("show", "tiny-sin")
    assert status == 2 and out == "" and "nearest are tiny-sim" in err and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    status, _, err = medfm("list", "--modality", "eeg")
    assert status == 2 and "--modality eeg is unknown" in err


def test_pull_of_a_card_without_weights_says_what_to_fetch(medfm):
    status, _, err = medfm("pull", "torchxrayvision-resnet50-res512-all")
    assert status == 1 and "only the card is here" in err and "medfm hub convert torchxrayvision" in err
    assert medfm("show", "torchxrayvision-resnet50-res512-all")[0] == 0


def test_convert_names_its_sources_and_refuses_what_is_no_checkpoint(medfm, tmp_path):
    status, _, err = medfm("convert", "ecg-jpa", "x.pt", "--output", tmp_path / "o")
    assert status == 2 and "ecg-jepa" in err
    status, _, err = medfm("convert", "ecg-jepa", tmp_path / "x.pt", "--output", tmp_path / "o")
    assert status == 1 and "checkpoint not found" in err
    (tmp_path / "x.pt").write_bytes(b"garbage")
    status, _, err = medfm("convert", "ecg-jepa", tmp_path / "x.pt", "--output", tmp_path / "o")
    assert status == 1 and "x.pt" in err and not (tmp_path / "o").exists()


def test_convert_writes_a_bundle_with_the_converters_weights_and_notes(medfm, tmp_path, monkeypatch):
    import tiny_bundle

    from medfm.hub import convert
    from medfm.hub.bundle import verify_bundle

    class Converted:
        backbone = tiny_bundle.vit(3)
        modality_settings = tiny_bundle.ecg().settings()
        notes = ("Heads were guessed.",)
        card: ClassVar = {}

    monkeypatch.setattr(tiny_bundle, "convert", lambda path: Converted, raising=False)
    monkeypatch.setitem(convert.CONVERTERS, "tiny", "tiny_bundle:convert")
    (tmp_path / "official.pt").write_bytes(b"weights")
    status, _, err = medfm("convert", "tiny", tmp_path / "official.pt", "--output", tmp_path / "My Model")
    assert status == 0, err
    back = verify_bundle(tmp_path / "My Model")
    assert back.card.id == "my-model" and "Heads were guessed." in back.card.limitations
    assert back.card.parents[0].checkpoint == hashlib.sha256(b"weights").hexdigest()
    assert torch.equal(
        back.build().state_dict()["norm.weight"], tiny_bundle.vit(3).state_dict()["norm.weight"]
    )


def test_the_words_of_the_hub_load_no_torch(bundle, tmp_path):
    code = (
        "import sys; from medfm.cli.main import main\n"
        "for words in (['list'], ['list', '--json'], ['where'], ['show', sys.argv[1]], ['verify', "
        "sys.argv[1]],"
        " ['pull', sys.argv[1]], ['export', sys.argv[1], sys.argv[2]], ['import', sys.argv[2]], ['list']):\n"
        "    assert main(['hub', *words]) == 0, words\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'huggingface_hub')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(tmp_path / "a.tar")], capture_output=True
    )
    assert done.returncode == 0, done.stderr
