"""Several processes of one run: who writes, who waits, and that two of them train one network."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from medfm.config.load import resolve_pretrain
from medfm.types import ConfigError, MedfmError
from medfm.workflows import ranks

TINY = [
    "data.synthetic.patients=32",
    "modality.fs=50",
    "modality.seconds=4",
    "backbone.size=null",
    "backbone.dim=16",
    "backbone.depth=2",
    "backbone.heads=2",
    "backbone.patch=[10]",
    "trainer.steps=6",
    "trainer.batch_size=4",
    "trainer.log_every=1",
    "trainer.checkpoint_every=3",
    "trainer.max_seconds=null",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "probe.patients=0",
    "output.publish=false",
]


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, True),
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),  # torchrun, second node
        ({"NODE_RANK": "1"}, False),  # Lightning, second node
        ({"NODE_RANK": "0", "LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
        ({"SLURM_PROCID": ""}, True),
    ],
)
def test_one_process_writes(environment, first):
    assert ranks.is_first(environment) is first


def test_overwriting_is_refused_where_processes_start_on_their_own():
    config = resolve_pretrain("ecg", overrides=["trainer.num_nodes=2"])
    with pytest.raises(ConfigError, match="--overwrite"):
        ranks.check_launch(config, True, {})
    ranks.check_launch(config, False, {})
    alone = resolve_pretrain("ecg")
    ranks.check_launch(alone, True, {"MASTER_PORT": "1", "WORLD_SIZE": "2"})
    with pytest.raises(ConfigError, match="torchrun"):
        ranks.check_launch(alone, True, {"TORCHELASTIC_RUN_ID": "x"})


def test_others_wait_for_the_configuration(tmp_path):
    with pytest.raises(MedfmError, match="first process"):
        ranks.await_first(tmp_path, patience=0.0)
    writer = threading.Thread(target=lambda: (time.sleep(0.2), (tmp_path / ranks.MARK).write_text("x")))
    writer.start()
    ranks.await_first(tmp_path, patience=10.0)
    writer.join()


@pytest.mark.slow
def test_two_processes_train_one_network_and_go_on(tmp_path):
    from safetensors.numpy import load_file

    environment = {k: v for k, v in os.environ.items() if k not in ranks.POSITIONS}
    environment |= {"MEDFM_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

    def run(name, *words):
        command = [sys.executable, "-m", "medfm.cli.main", "pretrain", "--modality", "ecg", "--output", name]
        done = subprocess.run(
            [*command, *TINY, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Written to") == 1  # one process speaks
        return load_file(tmp_path / name / "bundle" / "model.safetensors")

    two = run("two", "--devices", "2")
    one = run("one")
    rows = (tmp_path / "two" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3", "4", "5", "6"]
    assert all(np.isfinite(v).all() for v in two.values())
    # The second process brings other records: the result is not that of the first alone.
    assert any(not np.array_equal(two[k], one[k]) for k in two)
    again = run("again", "--devices", "2")
    assert all(np.allclose(two[k], again[k], atol=1e-6) for k in two)
