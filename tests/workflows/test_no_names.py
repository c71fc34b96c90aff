"""A site of recognisable names: no patient, record or path is found again in anything that a run leaves or publishes."""

from __future__ import annotations

import base64
import json
import logging
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from site_files import make_backbone, make_site

from medfm import paths
from medfm.config.load import resolve_finetune, resolve_pretrain
from medfm.data.catalog import resolve_source
from medfm.data.codes import site_codes
from medfm.hub.bundle import load_bundle
from medfm.synthetic.corpus import write_corpus
from medfm.workflows import finetune_report
from medfm.workflows.embed import embed
from medfm.workflows.finetune import finetune
from medfm.workflows.predict import predict
from medfm.workflows.pretrain import pretrain

PATIENT, RECORD, INSIDE = "DOE-JANE", "ROE_RICHARD", "QXINSIDE"
SITE, FOLDER, TABLE = "QXSITE", "QXWARD", "QXTABLE"
N, BAD, GONE = 16, 5, 6
TINY = {
    "ecg": ["modality.fs=100", "modality.seconds=4"],
    "xray": [
        "modality.size=[32,32]",
        "backbone.patch=[8,8]",
        "method.decoder_dim=16",
        "method.decoder_depth=1",
        "method.decoder_heads=2",
    ],
}


def ecg_site(folder: Path) -> Path:
    """``QXTABLE.csv`` over ``QXWARD/ROE_RICHARD_00.hea`` and on; one header names other files, and one has lost its data."""
    frame = pd.read_csv(make_site(folder / FOLDER, N))
    for i, old in enumerate(frame["path"]):
        for suffix in (".hea", ".dat"):
            file = (folder / FOLDER / old).with_suffix(suffix)
            text = file.read_bytes()
            if suffix == ".hea":
                text = text.replace(file.stem.encode(), f"{RECORD}_{i:02d}".encode())
            file.with_stem(f"{RECORD}_{i:02d}").write_bytes(text)
            file.unlink()
    frame["path"] = [f"{FOLDER}/{RECORD}_{i:02d}.hea" for i in range(N)]
    bad = folder / frame["path"][BAD]
    bad.write_text(bad.read_text().replace(f"{RECORD}_{BAD:02d}.dat", f"{INSIDE}.dat"))
    (folder / frame["path"][GONE]).with_suffix(".dat").unlink()
    (folder / FOLDER / "table.csv").unlink()
    return written(frame, folder)


def xray_site(folder: Path) -> Path:
    table = write_corpus("xray", N, folder, seed=5, size=48)
    frame = pd.read_csv(table)
    table.unlink()
    (folder / FOLDER).mkdir()
    for i, old in enumerate(frame["path"]):
        (folder / old).rename(folder / FOLDER / f"{RECORD}_{i:02d}.dcm")
    frame["path"] = [f"{FOLDER}/{RECORD}_{i:02d}.dcm" for i in range(N)]
    for bad in (BAD, GONE):
        (folder / frame["path"][bad]).write_bytes(
            b"\0" * 128 + b"DICM and nothing else of " + INSIDE.encode()
        )
    return written(frame.drop(columns="record"), folder)


def written(frame: pd.DataFrame, folder: Path) -> Path:
    frame["patient_id"] = [f"{PATIENT}-{i:02d}" for i in range(len(frame))]
    frame["y"] = np.arange(len(frame)) % 2
    frame.to_csv(folder / f"{TABLE}.csv", index=False)
    return folder / f"{TABLE}.csv"


def contents(file: Path) -> Iterator[bytes]:
    """The bytes of a file, of what is packed in it (npz, ckpt), and of the pictures in a page."""
    data = file.read_bytes()
    yield data
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as packed:
            yield from (packed.read(name) for name in packed.namelist())
    if file.suffix == ".html":
        yield from map(base64.b64decode, re.findall(rb"base64,([A-Za-z0-9+/=]+)", data))


def found(folder: Path, *words: str) -> dict[str, set[str]]:
    """File -> the words that stand in it or in its name, as UTF-8 or as UTF-32 (numpy's texts)."""
    out: dict[str, set[str]] = {}
    for file in (p for p in folder.rglob("*") if p.is_file()):
        name = str(file.relative_to(folder))
        for word in words:
            if word in name or any(
                b in data for data in contents(file) for b in (word.encode(), word.encode("utf-32-le"))
            ):
                out.setdefault(name, set()).add(word)
    return out


@pytest.mark.parametrize("modality", ["ecg", "xray"])
def test_nothing_that_a_run_leaves_names_a_patient_or_a_record(
    modality: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    table = {"ecg": ecg_site, "xray": xray_site}[modality](tmp_path / SITE)
    source = table.parent / FOLDER if modality == "ecg" else table
    tiny = [
        *(
            "backbone.size=null",
            "backbone.dim=16",
            "backbone.depth=2",
            "backbone.heads=2",
            "probe.patients=0",
        ),
        *("trainer.batch_size=4", "trainer.steps=2", "trainer.max_seconds=null", *TINY[modality]),
    ]
    flags = {"output.dir": str(tmp_path / "pretrained"), "data.sources": [str(source)]}
    first = pretrain(resolve_pretrain(modality, preset="quick", flags=flags, overrides=tiny), progress=False)
    assert f"{RECORD}_{BAD:02d}" in caplog.text  # who sits at the screen must know which file to mend
    settings = {
        "finetune.table": str(table),
        "finetune.backbone": str(first.path),
        "finetune.target": ["y"],
        "finetune.strategy": {"name": "lora", "epochs": 1},
        "finetune.repeats": 2,
        "finetune.folds": 2,
        "finetune.bootstrap": 10,
        "output.dir": str(tmp_path / "tuned"),
    }
    second = finetune(resolve_finetune(flags=settings), progress=False)

    typed = {SITE, FOLDER, TABLE}  # the folder and the table themselves, where the run is repeated from
    secrets = (PATIENT, RECORD, INSIDE)
    for run in (first, second):
        hits = found(run.path, *secrets, *typed)
        assert {name: words - typed for name, words in hits.items() if words - typed} == {}
        assert set(hits) <= {"config.yaml", "report.html"} and "config.yaml" in hits
        log = (run.path / "train.log").read_text()
        code = site_codes().of([f"{RECORD}_{BAD:02d}"], "record")[0]
        assert f"set aside: row {BAD + 2} ({code}): " in log
    assert set(found(first.path, *typed)) == {"config.yaml"}
    assert found(second.path, FOLDER) == {} and set(found(second.path, SITE)) == {"config.yaml"}
    unkeyed = [
        resolve_source(str(p), modality=load_bundle(first.bundle).modality())[0].digest
        for p in (source, table)
    ]
    hub = [p for p in (paths.hub(), first.bundle, second.bundle) if p]
    assert [found(p, *secrets, *typed, *unkeyed, str(tmp_path), "pretrained/", "tuned/") for p in hub] == [
        {},
        {},
        {},
    ]
    key = paths.key_file().read_bytes()
    for place in (first.path, second.path, paths.hub()):
        leaked = (key, key.hex().encode(), base64.b64encode(key))
        assert not any(
            k in data for f in place.rglob("*") if f.is_file() for data in contents(f) for k in leaked
        )
    assert resolve_pretrain(None, config=str(first.path)).data.sources == [str(source)]
    assert resolve_finetune(str(second.path), {}, []).finetune.table == str(table)


def test_rows_and_codes_lead_back_to_the_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """... for who has the table and the key; folds and figures are those of the ids themselves."""
    table = ecg_site(tmp_path / "site")
    flags = {
        "finetune.table": str(table),
        "finetune.backbone": str(make_backbone(tmp_path / "backbone")),
        "finetune.target": ["y"],
        "finetune.strategy.name": "linear-probe",
        "finetune.repeats": 2,
        "finetune.folds": 2,
        "finetune.bootstrap": 0,
        "finetune.baseline": False,
        "output.publish": False,
        "output.dir": str(tmp_path / "run"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_report, "write", lambda *_: None)
        run = finetune(resolve_finetune(flags=flags), progress=False)
        coded = pd.read_csv(predict(table, run.path, tmp_path / "p.csv", codes=True, progress=False))
        flags |= {"finetune.group": "patient_id", "output.dir": str(tmp_path / "each")}
        each = finetune(resolve_finetune(flags=flags), progress=False)
    mine = pd.read_csv(table)
    mine.index = mine.index + 2
    for name in ("predictions.csv", "predictions_repeats.csv"):
        told = pd.read_csv(run.path / name)
        assert list(told.columns[:3]) == ["row", "record", "patient"]
        of_mine = mine.loc[told["row"]]
        assert told["patient"].tolist() == site_codes().of(of_mine["patient_id"], "patient").tolist()
        stems = [Path(p).stem for p in of_mine["path"]]
        assert told["record"].tolist() == site_codes().of(stems, "record").tolist()
        assert told["y_y"].tolist() == of_mine["y"].tolist()
    assert [r["row"] for r in run.results["set_aside"]] == [BAD + 2, GONE + 2]
    assert json.loads((run.path / "results.json").read_text())["set_aside"] == run.results["set_aside"]
    assert any(f"row(s) {BAD + 2}, {GONE + 2} of the table" in note for note in run.results["notes"])
    assert (
        list(coded.columns) == ["row", "record", "patient", "p_y", "error"]
        and "trained this model" in caplog.text
    )
    assert coded["row"][-2:].tolist() == [BAD + 2, GONE + 2] and coded["p_y"][-2:].isna().all()
    assert coded["patient"][: N - 2].tolist() == told["patient"][: N - 2].tolist()
    assert found(tmp_path, PATIENT, INSIDE).keys() == {
        name for name in found(tmp_path, PATIENT, INSIDE) if name.startswith("site/")
    }
    assert found(each.path, PATIENT, RECORD, INSIDE) == {}  # a fold is called by its patient's code
    assert set(pd.read_csv(each.path / "predictions.csv")["fold"].str[:2]) == {"p-"}


def test_a_file_of_the_users_own_names_records_unless_codes_are_asked_for(tmp_path: Path) -> None:
    table, net = ecg_site(tmp_path / "site"), str(make_backbone(tmp_path / "backbone"))
    plain = pd.read_csv(embed(table, net, tmp_path / "plain.csv", progress=False))
    for suffix in (".csv", ".npz", ".parquet"):
        embed(table, net, tmp_path / "out" / f"z{suffix}", codes=True, progress=False)
    coded = pd.read_csv(tmp_path / "out" / "z.csv")
    assert list(coded.columns[:3]) == ["row", "record", "patient"] and coded["row"].tolist()[BAD] == BAD + 4
    assert coded["patient"].tolist() == site_codes().of(plain["patient"], "patient").tolist()
    assert coded["record"].tolist() == site_codes().of(plain["record"], "record").tolist()
    np.testing.assert_array_equal(coded["e0"], plain["e0"])
    failed = pd.read_csv(tmp_path / "out" / "z.csv.failed.csv")
    assert failed["row"].tolist() == [BAD + 2, GONE + 2] and set(failed["reason"]) == {
        "a part of it is missing"
    }
    with np.load(tmp_path / "out" / "z.npz", allow_pickle=False) as arrays:
        assert arrays["row"].tolist() == coded["row"].tolist()
    assert set(plain["patient"]) and found(tmp_path, PATIENT).keys() >= {"plain.csv"}
    assert found(tmp_path / "out", PATIENT, RECORD, FOLDER, INSIDE) == {}
