"""What must answer at once answers at once: help, listings and configuration errors load no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from medfm.cli.main import COMMANDS

HEAVY = ("torch", "numpy", "pandas", "scipy", "sklearn", "pytorch_lightning", "matplotlib", "wfdb")
SCRIPT = """
import json, sys, time
start = time.process_time()
from medfm.cli.main import main
status = main(json.loads(sys.argv[1]))
sys.stdout.flush()
loaded = [m for m in json.loads(sys.argv[2]) if m in sys.modules]
print(json.dumps([status, time.process_time() - start, loaded]), file=sys.stderr)
"""


def _run(*words):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(words), json.dumps(HEAVY)], capture_output=True, text=True
    )
    status, seconds, loaded = json.loads(done.stderr.strip().splitlines()[-1])
    return status, seconds, loaded, done


def test_help_takes_less_than_half_a_second_and_loads_nothing_heavy():
    runs = [_run("--help") for _ in range(3)]
    status, _, loaded, done = runs[0]
    assert (status, loaded) == (0, [])
    assert min(seconds for _, seconds, _, _ in runs) < 0.5
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_loads_nothing_heavy(name):
    status, _, loaded, done = _run(name, "--help")
    assert (status, loaded) == (0, []), done.stderr
    assert f"medfm {name}" in done.stdout


def test_listing_the_hub_loads_no_torch():
    status, _, loaded, done = _run("hub", "list")
    assert status == 0, done.stderr
    assert "torch" not in loaded and "pandas" not in loaded


@pytest.mark.parametrize(
    "words",
    [
        ("pretrain", "--modality", "ecg", "trainer.stepz=3"),
        ("pretrain", "--modality", "eeg"),
        ("pretrain", "--config", "absent.yaml"),
        ("finetune", "table.csv", "finetune.folds=1"),
        ("pretrain", "--modality", "ecg", "--resume", "--overwrite"),
    ],
)
def test_a_configuration_error_is_status_2_before_anything_heavy_loads(words):
    status, _, loaded, done = _run(*words)
    assert (status, loaded) == (2, [])
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_the_package_itself_imports_nothing():
    code = "import sys, medfm; print([m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
