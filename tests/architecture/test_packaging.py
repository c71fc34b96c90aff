"""What is in the box: recipes and cards, dependencies under acceptable licences, small files only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib import metadata

import pytest
from package_source import REPOSITORY
from packaging.requirements import Requirement

from medfm import paths
from medfm.cli.main import COMMANDS
from medfm.config.layers import BLOCKS
from medfm.config.yaml12 import read

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
CORE = PROJECT["project"]["dependencies"]


def test_shipped_folders_go_into_the_wheel():
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {
        name: f"medfm/_shipped/{name}" for name in ("configs", "datasets", "model_cards")
    }
    for folder in (paths.configs(), paths.datasets(), paths.model_cards()):
        assert any(folder.rglob("*.*")), f"{folder} is empty"


def test_shipped_folders_hold_no_code():
    for folder in (paths.configs(), paths.datasets(), paths.model_cards()):
        assert not list(folder.rglob("*.py"))


def test_every_shipped_yaml_is_readable():
    files = [*paths.configs().rglob("*.yaml"), *paths.datasets().rglob("*.yaml")]
    assert files and all(read(f) for f in files)


def test_starter_weights_are_small():
    weights = [p.stat().st_size for p in paths.model_cards().rglob("*.safetensors")]
    assert all(size <= 8e6 for size in weights) and sum(weights) <= 40e6


def test_no_large_file_in_the_repository():
    ignored = {"dist", "build", "runs"}
    large = [
        str(p.relative_to(REPOSITORY))
        for top in REPOSITORY.iterdir()
        if top.name not in ignored and not top.name.startswith((".", "medfm-"))
        for p in ([top] if top.is_file() else top.rglob("*"))
        if p.is_file() and p.stat().st_size > 8e6
    ]
    assert not large


def _closure(requirements: list[str]) -> dict[str, metadata.Distribution]:
    """Every installed distribution that the requirements bring, without extras."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [Requirement(r) for r in requirements]
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        waiting += [Requirement(r) for r in found[name].requires or ()]
    return found


def _licence(distribution: metadata.Distribution) -> str:
    """The SPDX expression, else the classifiers, else the licence field's first line (often a whole text)."""
    info = distribution.metadata
    if expression := info.get("License-Expression"):
        return expression
    if classifiers := [c for c in info.get_all("Classifier") or () if c.startswith("License ::")]:
        return "; ".join(classifiers)
    return (info.get("License") or "").strip().split("\n")[0]


def test_no_dependency_is_under_a_strong_copyleft_licence():
    closure = _closure(CORE)
    assert len(closure) > len(CORE), "the closure was not found"
    strong = re.compile(r"(?<!L)\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)
    exception = re.compile(
        r"GPL-[\d.]+(-or-later|-only)?\s+WITH\s+GCC-exception-[\d.]+|Lesser", re.IGNORECASE
    )
    bad = {n: t for n, d in closure.items() if strong.search(exception.sub("", t := _licence(d)))}
    assert not bad


def test_no_gpl_decoder_is_asked_for():
    """pydicom would use pylibjpeg-libjpeg (GPL-3) where it is installed; nothing here may bring it."""
    named = [r for block in PROJECT["project"]["optional-dependencies"].values() for r in block]
    assert not [r for r in (*CORE, *named) if Requirement(r).name in ("pylibjpeg-libjpeg", "imagehash")]
    assert "pylibjpeg-libjpeg" not in _closure(CORE)
    assert not [r for r in CORE if Requirement(r).extras], "an extra may bring what its own licence forbids"


def test_every_dependency_is_imported_or_named_by_the_package():
    """A requirement that nothing uses is weight on every site."""
    text = "\n".join(p.read_text(encoding="utf-8") for p in (paths.Path(paths.__file__).parent).rglob("*.py"))
    modules = {"scikit-learn": "sklearn", "pyyaml": "yaml", "pytorch-lightning": "pytorch_lightning"}
    modules |= {"pillow": "PIL", "python-gdcm": "gdcm"}
    engines = {"pyarrow", "openpyxl"}  # pandas loads these by name for Parquet and Excel
    engines |= {"pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg"}  # and pydicom these, for compressed pixels
    engines |= {"einops"}  # and MONAI this one, for its Swin networks
    for requirement in CORE:
        name = Requirement(requirement).name
        module = modules.get(name, name.replace("-", "_"))
        assert name in engines or re.search(rf"^\s*(import|from) {module}\b", text, re.MULTILINE), name


def test_the_readme_names_every_command_and_every_choice():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    missing = [f"medfm {c}" for c in COMMANDS if f"medfm {c}" not in text]
    missing += [n for block in BLOCKS.values() for n in block.table if f"`{n}`" not in text]
    assert not missing


@pytest.mark.skipif(not (REPOSITORY / ".ci" / "run").exists(), reason="the source archive leaves .ci out")
def test_ci_runs_the_commands_of_the_readme():
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run([shutil.which("bash") or "bash", "-n", str(script)], check=True)
    printed = subprocess.run([str(script), "--commands"], capture_output=True, text=True, check=True).stdout
    assert "pip install . && medfm pretrain --modality ecg" in printed
    for line in ("medfm hub list", "medfm doctor"):
        assert line in printed.splitlines()
    assert "pytest" in printed
