"""What this installation can do, where it keeps things, and what is missing with the way to get it.

Looks and never changes anything: no network call, no folder made, no secret shown.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medfm import __version__, paths

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "safetensors",
    "peft",
    "huggingface-hub",
    "pydantic",
    "wfdb",
    "pydicom",
    "pillow",
    "python-gdcm",
    "pyjpegls",
    "pylibjpeg-openjpeg",
    "nibabel",
    "pyedflib",
    "h5py",
    "matplotlib",
)

# What a format needs beyond Python: module to import, and what to install when it does not load.
DECODERS: dict[str, tuple[str, str]] = {
    "WFDB (.hea, .dat, .mat)": ("wfdb", "pip install wfdb"),
    "WFDB compressed as FLAC": ("soundfile", "pip install soundfile (or the system's libsndfile)"),
    "EDF, EDF+, BDF": ("pyedflib", "pip install pyedflib"),
    "DICOM waveforms": ("pydicom", "pip install pydicom"),
    "DICOM images, JPEG lossless and 12-bit": ("gdcm", "pip install python-gdcm"),
    "DICOM images, JPEG-LS": ("jpeg_ls", "pip install pyjpegls"),
    "DICOM images, JPEG 2000 and HTJ2K": ("openjpeg", "pip install pylibjpeg pylibjpeg-openjpeg"),
    "PNG, TIFF, JPEG": ("PIL", "pip install pillow"),
    "NIfTI": ("nibabel", "pip install nibabel"),
    "HDF5": ("h5py", "pip install h5py"),
    "MATLAB v5": ("scipy.io", "pip install scipy"),
    "GE MUSE and HL7 aECG XML": ("defusedxml", "pip install defusedxml"),
    "Philips SierraECG XML": ("sierraecg", 'pip install "medfm[philips]"'),
    "Parquet": ("pyarrow", "pip install pyarrow"),
    "Excel tables": ("openpyxl", "pip install openpyxl"),
}
OPTIONAL = ("sierraecg",)
SETTINGS = (
    "MEDFM_HOME",
    "MEDFM_OFFLINE",
    "HF_HUB_OFFLINE",
    "HF_HOME",
    "HF_ENDPOINT",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SCARCE = 5e9  # bytes: below this an ingest store or a set of checkpoints may not fit


def doctor() -> dict[str, Any]:
    """Everything as plain data; ``problems`` is a list of sentences, each with its remedy."""
    report: dict[str, Any] = {
        "medfm": {
            "version": __version__,
            "installed in": str(Path(__file__).resolve().parent.parent),
            "python": f"{platform.python_version()} ({sys.executable})",
            "platform": platform.platform(),
        },
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(),
        "decoders": {name: _loads(module) or "ready" for name, (module, _) in DECODERS.items()},
        "places": _places(),
        "shipped": _shipped(),
        "network": network(os.environ),
    }
    report["problems"] = _problems(report)
    return report


def network(environ: Mapping[str, str]) -> dict[str, Any]:
    """Offline switches, proxies and certificates as this process sees them; never a password or token."""
    found: dict[str, Any] = {name: environ[name] for name in SETTINGS if environ.get(name)}
    for name in PROXIES:
        for spelling in (name, name.lower()):
            if value := environ.get(spelling):
                found[spelling] = value if name == "NO_PROXY" else _without_credentials(value)
    found |= {name: environ[name] for name in CERTIFICATES if environ.get(name)}
    found |= {name: "set (not shown)" for name in SECRETS if environ.get(name)}
    return found


def _without_credentials(address: str) -> str:
    """``http://user:secret@proxy:3128`` -> ``http://proxy:3128``; what cannot be taken apart is not shown."""
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return "set (not shown)"
    if not host:
        return "set (not shown)"
    shown = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
    return shown + (" (with a user name, not shown)" if "@" in address else "")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "missing"


def _loads(module: str) -> str | None:
    """None when the module can be imported, else why not (a package may lack its system library)."""
    if util.find_spec(module.partition(".")[0]) is None:
        return "missing"
    try:
        import_module(module)
    except Exception as error:
        return f"does not load ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    return None


def _devices() -> dict[str, Any]:
    found: dict[str, Any] = {"CPU cores": os.cpu_count(), "cores usable here": _usable_cores()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory"] = size(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if (reason := _loads("torch")) is not None:
        return {**found, "torch": reason}
    import torch

    found["torch threads"] = torch.get_num_threads()
    found["torch build"] = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found[f"GPU {index}"] = f"{card.name}, {size(card.total_memory)}"
    if torch.backends.mps.is_available():
        found["GPU"] = "Apple (mps)"
    if not any(key.startswith("GPU") for key in found):
        found["GPU"] = "none: the CPU is used"
    return found


def _usable_cores() -> int:
    """Containers and batch systems often grant fewer cores than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _places() -> dict[str, dict[str, Any]]:
    places = {
        "cache (MEDFM_HOME)": paths.home(),
        "ingest store": paths.store(),
        "local hub": paths.hub(),
        "Hugging Face cache": Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"),
        "temporary files": Path(tempfile.gettempdir()),
        "here": Path.cwd(),
    }
    if Path("/dev/shm").is_dir():
        places["shared memory (loader workers)"] = Path("/dev/shm")
    return {name: _place(path, count=name in tuple(places)[:4]) for name, path in places.items()}


def _place(path: Path, count: bool) -> dict[str, Any]:
    existing = next((p for p in (path, *path.parents) if p.exists()), Path(path.anchor or "."))
    info: dict[str, Any] = {"path": str(path), "free": shutil.disk_usage(existing).free}
    info["writable"] = os.access(existing, os.W_OK)
    if count:
        info["used"] = sum(_file_size(Path(folder, f)) for folder, _, files in os.walk(path) for f in files)
    return info


def _file_size(path: Path) -> int:
    """0 for a file that another process removed in the meantime."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _shipped() -> dict[str, Any]:
    return {
        "from": str(paths.shipped()),
        "recipes": len(list(paths.configs().glob("*/*.yaml"))),
        "data-set cards": len(list(paths.datasets().glob("*.yaml"))),
        "models": len(list(paths.model_cards().glob("*/config.json"))),
    }


def _problems(report: dict[str, Any]) -> list[str]:
    found = [
        f"{name} is missing: pip install {name}" for name, v in report["packages"].items() if v == "missing"
    ]
    if "torch" in report["devices"]:
        found.append(f"torch {report['devices']['torch']}: install it again, see the README's CPU-only line")
    for name, state in report["decoders"].items():
        module, remedy = DECODERS[name]
        if state != "ready":
            optional = " (optional)" if module in OPTIONAL else ""
            found.append(f"{name}{optional}: {module} {state}: {remedy}")
    for name, place in report["places"].items():
        if not place["writable"] and name != "here":
            found.append(f"{name}: {place['path']} cannot be written; set MEDFM_HOME to a folder that can")
        if place["free"] < SCARCE and name.startswith(("cache", "here")):
            found.append(f"{name}: only {size(place['free'])} free on the disk of {place['path']}")
    if not report["shipped"]["recipes"]:
        found.append(
            f"no recipes in {report['shipped']['from']}: the installation is incomplete; reinstall medfm"
        )
    return found


def size(count: float) -> str:
    """Bytes for people: 1.5 GB is 1.5e9 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
