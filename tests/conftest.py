"""What every test stands on: its own medfm home, one thread, no screen, no network but this machine's own."""

import os
import socket
import sys
from pathlib import Path

# Test files of different folders may share a name (importlib mode), so their folders are made importable here
# for the makers of files and networks that stand beside them.
_HERE = Path(__file__).resolve().parent
sys.path[:0] = [
    str(p) for p in (_HERE, *sorted(_HERE.iterdir())) if p.is_dir() and not p.name.startswith("__")
]

# Before any test imports torch, numpy or matplotlib: their thread pools and backend are chosen at import.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import pytest  # noqa: E402

_LOCAL = ("127.", "::1", "localhost", "0.0.0.0")
_connect = socket.socket.connect


def _guarded(self, address):
    if isinstance(address, tuple) and not str(address[0]).startswith(_LOCAL):
        raise RuntimeError(f"a test tried to reach {address[0]}: tests use no network")
    return _connect(self, address)


@pytest.fixture(scope="session", autouse=True)
def _no_network():
    socket.socket.connect = _guarded
    yield
    socket.socket.connect = _connect


@pytest.fixture(scope="session", autouse=True)
def _session_home(tmp_path_factory):
    """For fixtures of a wider scope than one test; a test itself gets a fresh home below."""
    before = os.environ.get("MEDFM_HOME")
    os.environ["MEDFM_HOME"] = str(tmp_path_factory.mktemp("session-home"))
    yield
    if before is None:
        del os.environ["MEDFM_HOME"]
    else:
        os.environ["MEDFM_HOME"] = before


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MEDFM_HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("MEDFM_OFFLINE", "MEDFM_KEY_FILE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
