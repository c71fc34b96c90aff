"""Pretraining end to end on tiny networks: what a run leaves, exact resuming, mixtures, chaining, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from medfm.config.load import resolve_pretrain, resolve_saved
from medfm.config.run import RunConfig
from medfm.hub.bundle import load_bundle
from medfm.types import ConfigError, MedfmError
from medfm.workflows import callbacks
from medfm.workflows.pretrain import pretrain

TINY = [
    "modality.fs=100",
    "modality.seconds=5",
    "backbone.size=null",
    "backbone.dim=16",
    "backbone.depth=2",
    "backbone.heads=2",
    "data.synthetic.patients=24",
    "trainer.batch_size=4",
    "trainer.steps=12",
    "trainer.max_seconds=null",
    "trainer.checkpoint_every=4",
    "trainer.log_every=1",
    "probe.patients=0",
]


def tiny(output: Path, *more: str, **flags: object) -> RunConfig:
    return resolve_pretrain(
        "ecg", preset="quick", flags={"output.dir": str(output), **flags}, overrides=[*TINY, *more]
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_bundle(run / "bundle").state


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One uninterrupted run, with a store and hub of its own."""
    root = tmp_path_factory.mktemp("whole")
    os.environ["MEDFM_HOME"] = str(root / "home")
    return pretrain(tiny(root / "run", "probe.patients=40"), progress=False)


def test_a_run_leaves_what_the_contract_promises(whole):
    names = {p.name for p in whole.path.iterdir()}
    assert {
        "config.yaml",
        "metrics.csv",
        "train.log",
        "checkpoints",
        "bundle",
        "figures",
        "report.html",
        "results.json",
        "environment.txt",
        "cite.bib",
    } <= names
    assert "2410.13867" in (whole.path / "cite.bib").read_text()
    assert "not a medical device" in (whole.path / "environment.txt").read_text()
    html = whole.report.read_text(encoding="utf-8")
    assert "not a medical device" in html and 'src="http' not in html and 'href="http' not in html
    assert whole.results["probe"]["random_initialisation"] > 0.3
    rows = (whole.path / "metrics.csv").read_text().splitlines()
    assert len(rows) == 13 and rows[-1].startswith("12,")


def test_the_bundle_is_the_moving_average_and_carries_its_preprocessing(whole):
    bundle = load_bundle(whole.bundle)
    assert bundle.card.simulated_only and bundle.card.id.endswith("-sim")
    assert "simulated" in bundle.card.summary.split(".")[0]
    settings = bundle.modality().settings()
    assert settings["fs"] == 100 and len(settings["std"]) == 12 and min(settings["std"]) > 0.01
    state = torch.load(whole.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert same({k: state[f"target_encoder.{k}"] for k in bundle.state}, bundle.state)
    assert not torch.equal(state["backbone.norm.weight"], bundle.state["norm.weight"])


def test_the_saved_configuration_repeats_the_run(whole, tmp_path):
    config = resolve_saved(whole.path / "config.yaml", RunConfig)
    again = pretrain(
        config.model_copy(
            update={"output": config.output.model_copy(update={"dir": str(tmp_path / "again")})}
        ),
        progress=False,
    )
    assert same(weights(whole.path), weights(again.path))


def test_resuming_after_an_interruption_gives_the_same_weights_and_metrics(whole, tmp_path, monkeypatch):
    from medfm.workflows import callbacks

    def interrupt(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 7:
            raise KeyboardInterrupt

    config = tiny(tmp_path / "run", "probe.patients=40")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(callbacks.FiniteLoss, "on_train_batch_end", interrupt)
        pretrain(config, progress=False)
    assert not (tmp_path / "run" / "bundle").exists()
    run = pretrain(config, resume=True, progress=False)
    assert same(weights(whole.path), weights(run.path))
    assert (run.path / "metrics.csv").read_text() == (whole.path / "metrics.csv").read_text()


@pytest.mark.slow
def test_resuming_after_sigkill_gives_the_same_weights(tmp_path):
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from workflows.test_pretrain import tiny\nfrom medfm.workflows.pretrain import pretrain\n"
        "import torch; torch.set_num_threads(1)\n"
        "pretrain(tiny(Path(sys.argv[2]), 'trainer.steps=400'), progress=False)"
    )
    whole = pretrain(tiny(tmp_path / "whole", "trainer.steps=400"), progress=False)
    tests = str(Path(__file__).resolve().parent.parent)
    process = subprocess.Popen([sys.executable, "-c", script, tests, str(tmp_path / "run")])
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    step = int(torch.load(last, weights_only=True)["global_step"])
    assert 0 < step < 400 and not (tmp_path / "run" / "bundle").exists()
    run = pretrain(tiny(tmp_path / "run", "trainer.steps=400"), resume=True, progress=False)
    assert same(weights(whole.path), weights(run.path))


def test_a_folder_of_the_users_own_records_and_a_mixture(whole, tmp_path):
    from medfm.synthetic.corpus import write_corpus

    table = write_corpus("ecg", 10, tmp_path / "site", seed=5, fs=100)
    (tmp_path / "site" / "broken.hea").write_text("broken 12 100 500\n")
    run = pretrain(
        tiny(tmp_path / "run", **{"data.sources": ["synthetic@0.75", f"{table}@0.25"]}), progress=False
    )
    parts = {c["name"]: c for c in run.results["composition"]}
    assert [c["share"] for c in parts.values()] == [0.75, 0.25]
    card = load_bundle(run.bundle).card
    assert not card.simulated_only and not card.id.endswith("-sim")


def test_only_training_rows_of_a_split_are_used(tmp_path):
    import pandas as pd

    from medfm.synthetic.corpus import write_corpus

    table = write_corpus("ecg", 12, tmp_path / "site", seed=5, fs=100)
    frame = pd.read_csv(table)
    frame["split"] = np.where(np.arange(len(frame)) % 3 == 0, "test", "train")
    frame.to_csv(table, index=False)
    run = pretrain(tiny(tmp_path / "run", **{"data.sources": [str(table)]}), progress=False)
    assert run.results["composition"][0]["records"] == (frame["split"] == "train").sum()
    frame.loc[1, "patient_id"] = frame.loc[0, "patient_id"]
    frame.to_csv(table, index=False)
    with pytest.raises(MedfmError, match="more than one split"):
        pretrain(tiny(tmp_path / "bad", **{"data.sources": [str(table)]}), progress=False)


def test_continuing_from_a_run_keeps_architecture_and_preprocessing(whole, tmp_path):
    run = pretrain(
        tiny(
            tmp_path / "run",
            "optim.lr=1e-12",
            "optim.lr_start=0",
            "optim.lr_end=0",
            "backbone.dim=32",
            init=str(whole.path),
        ),
        progress=False,
    )
    before, after = load_bundle(whole.bundle), load_bundle(run.bundle)
    assert after.config["backbone"] == before.config["backbone"]
    assert after.modality().settings() == before.modality().settings()
    assert all(torch.allclose(before.state[k], after.state[k], atol=1e-5) for k in before.state)
    assert after.card.parents[0].checkpoint == before.weights_sha256


def test_an_existing_folder_is_refused(whole, tmp_path):
    config = tiny(whole.path)
    with pytest.raises(ConfigError, match=r"--resume, --overwrite"):
        pretrain(config, progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not a medfm run"):
        pretrain(tiny(tmp_path / "mine"), overwrite=True, progress=False)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    with pytest.raises(ConfigError, match="nothing to resume"):
        pretrain(tiny(tmp_path / "none"), resume=True, progress=False)
    with pytest.raises(ConfigError, match=r"other settings \(seed\)"):
        pretrain(tiny(whole.path, "probe.patients=40", "seed=5"), resume=True, progress=False)


def test_a_diverged_loss_ends_with_the_remedy(tmp_path):
    with pytest.raises(MedfmError, match=r"Lower optim\.lr"):
        pretrain(tiny(tmp_path / "run", "optim.lr=1e30", "optim.lr_end=1e30"), progress=False)


def test_collapse_is_said(whole):
    from medfm.workflows.callbacks import CollapseGuard

    guard = CollapseGuard(None, 1, None)  # type: ignore[arg-type]
    guard.first = {"target_std": 0.4, "effective_rank": 20.0}
    guard.last = {"target_std": 0.35, "effective_rank": 12.0}
    assert guard.problem() == ""
    guard.last = {"target_std": 0.03, "effective_rank": 12.0}
    assert "COLLAPSE" in guard.problem()
    guard.last = {"target_std": 0.4, "effective_rank": 1.2}
    assert "effective dimensions" in guard.problem()


def test_probe_patients_in_training_are_refused(tmp_path):
    from medfm.synthetic.corpus import write_corpus

    table = write_corpus("ecg", 12, tmp_path / "site", seed=5, fs=100)
    flags = {"data.sources": [str(table)], "probe.data": str(table), "probe.target": "afib"}
    with pytest.raises(ConfigError, match="patient"):
        pretrain(tiny(tmp_path / "run", "probe.patients=10", **flags), progress=False)


def test_a_cooldown_branch_goes_on_from_its_trunk(tmp_path):
    """The branch equals a run that knew its cooldown from the start, and the trunk is left as it was."""
    level = ["optim.schedule=wsd", "optim.warmup=0.25", "optim.cooldown=0"]
    trunk = pretrain(tiny(tmp_path / "trunk", *level, "trainer.steps=8"), progress=False)
    before = (trunk.path / "checkpoints" / "last.ckpt").read_bytes()
    branch = pretrain(
        tiny(tmp_path / "branch", *level, "trainer.steps=12", f"trainer.branch_from={trunk.path}"),
        progress=False,
    )
    whole = pretrain(
        tiny(tmp_path / "known", *level, "trainer.steps=12", "optim.warmup=0.16667", "optim.cooldown_from=8"),
        progress=False,
    )
    assert same(weights(branch.path), weights(whole.path))
    assert (trunk.path / "checkpoints" / "last.ckpt").read_bytes() == before
    rates = [float(row["lr"]) for row in callbacks.read_metrics(branch.path / "metrics.csv")]
    assert len(rates) == 4 and rates == sorted(rates, reverse=True)
    with pytest.raises(ConfigError, match="no trunk"):
        pretrain(tiny(tmp_path / "bad", f"trainer.branch_from={trunk.path}"), progress=False)


def test_accumulated_steps_resume_exactly(tmp_path, monkeypatch):
    whole = pretrain(tiny(tmp_path / "whole", "trainer.accumulate=2"), progress=False)

    def interrupt(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 5 and batch_idx % 2 == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(callbacks.FiniteLoss, "on_train_batch_end", interrupt)
        pretrain(tiny(tmp_path / "run", "trainer.accumulate=2"), progress=False)
    run = pretrain(tiny(tmp_path / "run", "trainer.accumulate=2"), resume=True, progress=False)
    assert same(weights(whole.path), weights(run.path))


def test_a_run_that_never_started_does_not_stand_in_the_way(tmp_path):
    (tmp_path / "waves").mkdir()
    flags = {"data.sources": [str(tmp_path / "waves")]}
    for _ in range(2):  # the second try meets the same sentence, not "exists already"
        with pytest.raises(MedfmError, match="no record"):
            pretrain(tiny(tmp_path / "run", **flags), progress=False)


def test_a_full_hub_does_not_cost_the_report(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise MedfmError("publishing failed: no space left.")

    monkeypatch.setattr("medfm.hub.folder.FolderStore.publish", full)
    done = pretrain(tiny(tmp_path / "run", "trainer.steps=2"), progress=False)
    assert done.report.is_file() and "medfm hub pull" in caplog.text
    assert f"--backbone {done.path}" in done.next_command


@pytest.mark.parametrize(
    ("modality", "method", "said"),
    [("xray", "ecg_jepa", "is for signals"), ("ecg", "spark", "a convolutional network")],
)
def test_a_method_that_cannot_train_these_is_refused_before_a_record_is_read(
    tmp_path, monkeypatch, modality, method, said
):
    monkeypatch.setattr(
        "medfm.workflows.sources.open_sources", lambda *_: pytest.fail("records were read for nothing")
    )
    config = resolve_pretrain(modality, method=method, flags={"output.dir": str(tmp_path / "run")})
    with pytest.raises(ConfigError, match=f"{said}.*(--method|backbone.name)"):
        pretrain(config, progress=False)
